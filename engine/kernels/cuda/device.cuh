// SPDX-License-Identifier: Apache-2.0
// What kernels share: launches that overlap their predecessor's tail, warp reductions in a fixed order, 16-bit floats,
// dequantised weights one value at a time.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <cstdint>
#include <utility>

#include "engine/kernels/args.h"
#include "engine/kernels/weight_tiles.h"

namespace farspan::kernels::cuda {

inline constexpr int kWarpThreads = 32;
inline constexpr unsigned kWholeWarp = 0xffffffffu;

// What launchers need to know of the current device. Read once, as kernels' attributes are set once: a process uses one
// device, which CudaBackend::Create sees to.
struct DeviceTraits {
  int num_multiprocessors = 0;
  int max_shared_bytes = 0;  // of one block, opted in
  int compute_major = 0;
  // Whether the code that runs is that built for 9.0; later devices compile that for 8.0, which lacks its instructions.
  bool runs_hopper_code() const { return compute_major == 9; }
};

inline const DeviceTraits& CurrentDeviceTraits() {
  static const DeviceTraits traits = [] {
    DeviceTraits found;
    int device = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&found.num_multiprocessors, cudaDevAttrMultiProcessorCount, device);
    cudaDeviceGetAttribute(&found.max_shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    cudaDeviceGetAttribute(&found.compute_major, cudaDevAttrComputeCapabilityMajor, device);
    return found;
  }();
  return traits;
}

// Enqueues a kernel that may start before its predecessor in the stream has ended. It must call WaitForPrevious()
// before it touches memory that an earlier kernel of the stream writes or reads.
template <typename... Params, typename... Args>
cudaError_t LaunchKernel(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
                         Args&&... args) {
  cudaLaunchAttribute overlap{};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &overlap;
  config.numAttrs = CurrentDeviceTraits().runs_hopper_code() ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, static_cast<Params>(std::forward<Args>(args))...);
}

// Returns when every earlier kernel of the stream has ended and its writes are visible. Every thread calls it.
__device__ inline void WaitForPrevious() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Lets the stream's next kernel start once every block has said so or ended. It does not make writes visible earlier:
// the next kernel waits for that by WaitForPrevious().
__device__ inline void LetNextStart() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

// The same sum in every lane, added in a butterfly: one order, whatever the values.
__device__ inline float WarpSum(float value) {
  for (int offset = kWarpThreads / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(kWholeWarp, value, offset);
  return value;
}

__device__ inline float LoadHalf(const uint8_t* bytes) {
  return __half2float(__ushort_as_half(static_cast<unsigned short>(bytes[0] | bytes[1] << 8)));
}

__device__ inline float LoadBf16(const uint16_t* values, int64_t index) {
  return __uint_as_float(static_cast<uint32_t>(values[index]) << 16);
}

// Round to nearest even; a NaN stays a quiet NaN. The same bits as the CPU's.
__device__ inline uint16_t ToBf16(float value) {
  const uint32_t bits = __float_as_uint(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// Value `column` of a row of weights that are not tiled.
template <WeightType kType>
__device__ inline float LoadWeight(const uint8_t* row, int64_t column) {
  if constexpr (kType == WeightType::kF32) return reinterpret_cast<const float*>(row)[column];
  if constexpr (kType == WeightType::kBf16) return LoadBf16(reinterpret_cast<const uint16_t*>(row), column);
  const int64_t block = column / kQuantBlock, i = column % kQuantBlock;
  const uint8_t* bytes = row + WeightRowBytes(kType, kQuantBlock) * block;
  const float scale = LoadHalf(bytes);
  if constexpr (kType == WeightType::kQ8_0) return scale * static_cast<float>(static_cast<int8_t>(bytes[2 + i]));
  const int first = kType == WeightType::kQ4_1 ? 4 : 2;
  const uint8_t byte = bytes[first + i % (kQuantBlock / 2)];
  const int value = i < kQuantBlock / 2 ? byte & 0x0f : byte >> 4;
  if constexpr (kType == WeightType::kQ4_1) return fmaf(scale, static_cast<float>(value), LoadHalf(bytes + 2));
  return scale * static_cast<float>(value - 8);
}

// A value of a matrix of any type.
template <WeightType kType>
__device__ inline float LoadWeightAt(const void* data, int64_t columns, int64_t row, int64_t column) {
  const auto* bytes = static_cast<const uint8_t*>(data);
  if constexpr (IsTiled(kType)) {
    constexpr TileTraits kTraits = TraitsOfTiles(kType);
    const uint8_t* tile = bytes + TileOffset(kTraits, columns, row, column);
    const TilePlace place =
        TilePlace::At(kTraits, static_cast<int>(row % kTileRows), static_cast<int>(column % kTileColumns));
    const auto level = static_cast<float>(TileLevel(kTraits, tile, place) - kTraits.offset);
    const uint8_t* scale = tile + kTraits.scales_at() + place.scale_index(kTraits) * (kTraits.has_min ? 4 : 2);
    return kTraits.has_min ? fmaf(LoadHalf(scale), level, LoadHalf(scale + 2)) : LoadHalf(scale) * level;
  } else {
    return LoadWeight<kType>(bytes + row * WeightRowBytes(kType, columns), column);
  }
}

// Calls body with the type as a compile-time constant.
template <typename Body>
cudaError_t WithWeightType(WeightType type, const Body& body) {
  switch (type) {
    case WeightType::kF32:
      return body.template operator()<WeightType::kF32>();
    case WeightType::kBf16:
      return body.template operator()<WeightType::kBf16>();
    case WeightType::kQ4_0:
      return body.template operator()<WeightType::kQ4_0>();
    case WeightType::kQ4_1:
      return body.template operator()<WeightType::kQ4_1>();
    case WeightType::kQ8_0:
      return body.template operator()<WeightType::kQ8_0>();
    case WeightType::kTiled4:
      return body.template operator()<WeightType::kTiled4>();
    case WeightType::kTiled4Min:
      return body.template operator()<WeightType::kTiled4Min>();
    case WeightType::kTiled5:
      return body.template operator()<WeightType::kTiled5>();
    case WeightType::kTiled5Min:
      return body.template operator()<WeightType::kTiled5Min>();
    case WeightType::kTiled6:
      return body.template operator()<WeightType::kTiled6>();
    case WeightType::kTiled8:
      return body.template operator()<WeightType::kTiled8>();
    case WeightType::kPanel4:
    case WeightType::kPanel4Min:
    case WeightType::kPanel8:
      break;  // of CPUs
  }
  return cudaErrorInvalidValue;
}

}  // namespace farspan::kernels::cuda
