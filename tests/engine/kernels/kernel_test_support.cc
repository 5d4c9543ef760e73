// SPDX-License-Identifier: Apache-2.0
#include "tests/engine/kernels/kernel_test_support.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "engine/kernels/cpu/number_formats.h"
#include "engine/kernels/weight_panels.h"
#include "engine/kernels/weight_tiles.h"

namespace farspan::kernels {
namespace {

uint64_t PickSeed() {
  const char* fixed = std::getenv("FARSPAN_TEST_SEED");
  const uint64_t seed = fixed != nullptr ? std::strtoull(fixed, nullptr, 10) : std::random_device{}();
  std::printf("random inputs: FARSPAN_TEST_SEED=%llu\n", static_cast<unsigned long long>(seed));
  return seed;
}

// A half float of magnitude in [2^-9, 2^-4), and what it stands for.
struct Half {
  uint16_t bits;
  double value;
};

Half RandomHalf(Random* random) {
  const int64_t sign = random->Integer(0, 1), exponent = random->Integer(6, 10), mantissa = random->Integer(0, 1023);
  const double magnitude = std::ldexp(1.0 + static_cast<double>(mantissa) / 1024.0, static_cast<int>(exponent) - 15);
  return {static_cast<uint16_t>(sign << 15 | exponent << 10 | mantissa), sign != 0 ? -magnitude : magnitude};
}

void AppendHalf(Half half, std::vector<uint8_t>* bytes) {
  bytes->push_back(static_cast<uint8_t>(half.bits & 0xff));
  bytes->push_back(static_cast<uint8_t>(half.bits >> 8));
}

void AppendNibbleBlock(bool has_min, Random* random, RandomWeight* weight) {
  const Half scale = RandomHalf(random);
  const Half min = has_min ? RandomHalf(random) : Half{0, 0.0};
  AppendHalf(scale, &weight->bytes);
  if (has_min) AppendHalf(min, &weight->bytes);
  double values[kQuantBlock];
  for (int64_t i = 0; i < kQuantBlock / 2; ++i) {
    const int64_t low = random->Integer(0, 15), high = random->Integer(0, 15);
    weight->bytes.push_back(static_cast<uint8_t>(low | high << 4));
    const double offset = has_min ? min.value : -8.0 * scale.value;
    values[i] = scale.value * static_cast<double>(low) + offset;
    values[i + kQuantBlock / 2] = scale.value * static_cast<double>(high) + offset;
  }
  weight->values.insert(weight->values.end(), values, values + kQuantBlock);
}

void AppendByteBlock(Random* random, RandomWeight* weight) {
  const Half scale = RandomHalf(random);
  AppendHalf(scale, &weight->bytes);
  for (int64_t i = 0; i < kQuantBlock; ++i) {
    const int64_t value = random->Integer(-128, 127);
    weight->bytes.push_back(static_cast<uint8_t>(value & 0xff));
    weight->values.push_back(scale.value * static_cast<double>(value));
  }
}

void AppendFloat(WeightType type, Random* random, RandomWeight* weight) {
  uint32_t bits = std::bit_cast<uint32_t>(random->Real(-1, 1));
  if (type == WeightType::kBf16) bits &= 0xffff0000u;
  const int first_byte = type == WeightType::kBf16 ? 2 : 0;
  for (int byte = first_byte; byte < 4; ++byte)
    weight->bytes.push_back(static_cast<uint8_t>(bits >> (8 * byte) & 0xff));
  weight->values.push_back(static_cast<double>(std::bit_cast<float>(bits)));
}

RandomWeight MakeTiles(WeightType type, int64_t rows, int64_t columns, Random* random) {
  const TileTraits traits = TraitsOfTiles(type);
  RandomWeight weight;
  weight.bytes.assign(static_cast<size_t>(rows * WeightRowBytes(type, columns)), 0);
  weight.values.resize(static_cast<size_t>(rows * columns));
  std::vector<Half> scales(static_cast<size_t>(columns)), mins = scales;
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t column = 0; column < columns; ++column) {
      uint8_t* tile = weight.bytes.data() + TileOffset(traits, columns, row, column);
      const TilePlace place =
          TilePlace::At(traits, static_cast<int>(row % kTileRows), static_cast<int>(column % kTileColumns));
      const auto group = static_cast<size_t>(column / traits.group_columns);
      if (column % traits.group_columns == 0) {
        scales[group] = RandomHalf(random);
        mins[group] = RandomHalf(random);
        uint8_t* at = tile + traits.scales_at() + place.scale_index(traits) * (traits.has_min ? 4 : 2);
        std::vector<uint8_t> halves;
        AppendHalf(scales[group], &halves);
        if (traits.has_min) AppendHalf(mins[group], &halves);
        std::copy(halves.begin(), halves.end(), at);
      }
      const int bits = traits.low_bits + traits.high_bits;
      const auto level = static_cast<int>(random->Integer(bits == 8 ? -128 : 0, bits == 8 ? 127 : (1 << bits) - 1));
      SetTileLevel(traits, tile, place, level);
      weight.values[static_cast<size_t>(row * columns + column)] = traits.has_min
                                                                       ? scales[group].value * level + mins[group].value
                                                                       : scales[group].value * (level - traits.offset);
    }
  }
  weight.view = {.data = weight.bytes.data(), .type = type, .rows = rows, .columns = columns};
  return weight;
}

RandomWeight MakePanels(WeightType type, int64_t rows, int64_t columns, Random* random) {
  const PanelTraits traits = TraitsOfPanels(type);
  RandomWeight weight;
  weight.bytes.assign(static_cast<size_t>(rows * WeightRowBytes(type, columns)), 0);
  weight.values.resize(static_cast<size_t>(rows * columns));
  Half scale = {0, 0}, min = {0, 0};
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t column = 0; column < columns; ++column) {
      uint8_t* panel = weight.bytes.data() + PanelOffset(traits, columns, row, column);
      if (column % kPanelColumns == 0) {
        scale = RandomHalf(random);
        if (traits.has_min) min = RandomHalf(random);
        std::memcpy(panel + 2 * (row % kPanelRows), &scale.bits, sizeof(scale.bits));
        if (traits.has_min) std::memcpy(panel + 32 + 2 * (row % kPanelRows), &min.bits, sizeof(min.bits));
      }
      const auto level = static_cast<int>(traits.bits == 8 ? random->Integer(-128, 127) : random->Integer(0, 15));
      SetPanelLevel(traits, panel, static_cast<int>(row % kPanelRows), static_cast<int>(column % kPanelColumns), level);
      weight.values[static_cast<size_t>(row * columns + column)] = scale.value * (level - traits.offset) + min.value;
    }
  }
  weight.view = {.data = weight.bytes.data(), .type = type, .rows = rows, .columns = columns};
  return weight;
}

}  // namespace

Random::Random() {
  static const uint64_t seed = PickSeed();
  const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
  uint64_t mixed = seed;
  for (const char* name = test != nullptr ? test->name() : ""; *name != '\0'; ++name) {
    mixed = mixed * 1099511628211u + static_cast<uint64_t>(*name);
  }
  engine_.seed(mixed);
}

int64_t Random::Integer(int64_t low, int64_t high) {
  return std::uniform_int_distribution<int64_t>(low, high)(engine_);
}

float Random::Real(float low, float high) { return std::uniform_real_distribution<float>(low, high)(engine_); }

std::vector<float> Random::Reals(int64_t size, float low, float high) {
  std::vector<float> values(static_cast<size_t>(size));
  for (float& value : values) value = Real(low, high);
  return values;
}

std::vector<const KernelTable*> KernelLevels() {
  std::vector<const KernelTable*> levels = {&PortableKernels()};
  if (CpuHasAvx2()) levels.push_back(&Avx2Kernels());
  if (CpuHasAvx512()) levels.push_back(&Avx512Kernels());
  return levels;
}

RandomWeight MakeWeight(WeightType type, int64_t rows, int64_t columns, Random* random) {
  if (IsTiled(type)) return MakeTiles(type, rows, columns, random);
  if (IsPanel(type)) return MakePanels(type, rows, columns, random);
  RandomWeight weight;
  const bool quantised = type == WeightType::kQ4_0 || type == WeightType::kQ4_1 || type == WeightType::kQ8_0;
  for (int64_t i = 0; i < rows * columns; i += quantised ? kQuantBlock : 1) {
    if (type == WeightType::kQ8_0) {
      AppendByteBlock(random, &weight);
    } else if (quantised) {
      AppendNibbleBlock(type == WeightType::kQ4_1, random, &weight);
    } else {
      AppendFloat(type, random, &weight);
    }
  }
  weight.view = {.data = weight.bytes.data(), .type = type, .rows = rows, .columns = columns};
  return weight;
}

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

float LoadKvElement(KvElement element, const void* bytes, int64_t index) {
  return WithKvElement(element, [&]<typename Element>() { return Widen(static_cast<const Element*>(bytes)[index]); });
}

void StoreKvElement(KvElement element, void* bytes, int64_t index, float value) {
  WithKvElement(element, [&]<typename Element>() { Narrow(value, static_cast<Element*>(bytes) + index); });
}

}  // namespace farspan::kernels
