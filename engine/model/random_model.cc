// SPDX-License-Identifier: Apache-2.0
#include "engine/model/random_model.h"

#include <span>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/base/absl_view.h"
#include "engine/base/check.h"
#include "engine/base/log.h"
#include "engine/base/status_macros.h"
#include "engine/kernels/random_block.h"
#include "engine/kernels/weight_tiles.h"
#include "engine/model/llama.h"
#include "engine/model/weight_source.h"

namespace farspan {
namespace {

// Raised when the same name and seed come to mean other weights.
constexpr int kGeneratorVersion = 1;
constexpr int kExponent = -5;  // uniform in [-2^-5, 2^-5): a standard deviation of 0.018

kernels::WeightType TypeOf(kernels::RandomFormat format) {
  switch (format) {
    case kernels::RandomFormat::kF32:
      return kernels::WeightType::kF32;
    case kernels::RandomFormat::kBf16:
      return kernels::WeightType::kBf16;
    case kernels::RandomFormat::kF16:
    case kernels::RandomFormat::kF8E4M3:
      break;  // of KV pages alone
    case kernels::RandomFormat::kQ4_0:
      return kernels::WeightType::kQ4_0;
    case kernels::RandomFormat::kQ8_0:
      return kernels::WeightType::kQ8_0;
  }
  FARSPAN_CHECK(false, "format=", static_cast<int>(format));
}

// The key of a tensor's values: FNV-1a of its name, stirred with the seed.
uint64_t KeyOf(std::string_view name, uint64_t seed) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : name) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3u;
  return kernels::RandomWord(seed, hash);
}

class RandomWeights final : public WeightSource {
 public:
  RandomWeights(const RandomModelOptions& random, Backend* backend)
      : WeightSource(backend), random_(random), type_(TypeOf(random.weights)) {
    content_hash_.AddText(
        absl::StrCat("random ", kGeneratorVersion, " ", random.seed, " ", static_cast<int>(random.weights)));
  }

  bool Has(std::string_view name) const override {
    if (name == "output.weight") return !random_.shape.tied_embeddings;
    return name != kRopeFactors || !random_.shape.rope_factors.empty();
  }

  absl::Status LoadStack(const std::vector<StackPart>& parts, int64_t columns) override {
    FARSPAN_RETURN_IF_ERROR(CheckColumns(parts.front().name, columns));
    int64_t rows = 0;
    for (const StackPart& part : parts) rows += part.rows;
    FARSPAN_ASSIGN_OR_RETURN(void* device,
                             Allocate(parts.front().name, rows * kernels::WeightRowBytes(type_, columns)));
    auto* next = static_cast<std::byte*>(device);
    for (const StackPart& part : parts) {
      FARSPAN_ASSIGN_OR_RETURN(*part.view, Fill(part.name, next, part.rows, columns));
      next += part.rows * kernels::WeightRowBytes(type_, columns);
    }
    return absl::OkStatus();
  }

  absl::StatusOr<kernels::WeightView> LoadMatrix(std::string_view name, int64_t rows, int64_t columns) override {
    FARSPAN_RETURN_IF_ERROR(CheckColumns(name, columns));
    FARSPAN_ASSIGN_OR_RETURN(void* device, Allocate(name, rows * kernels::WeightRowBytes(type_, columns)));
    return Fill(name, device, rows, columns);
  }

  // Norms, the only vectors in device memory.
  absl::StatusOr<const float*> LoadVector(std::string_view name, int64_t size) override {
    const std::vector<float> ones(static_cast<size_t>(size), 1.0f);
    FARSPAN_ASSIGN_OR_RETURN(void* device, Allocate(name, size * int64_t{sizeof(float)}));
    FARSPAN_RETURN_IF_ERROR(backend_->Upload(device, std::as_bytes(std::span(ones))));
    Count(name, size, 1);
    return static_cast<const float*>(device);
  }

  absl::StatusOr<std::vector<float>> ReadVector(std::string_view name, int64_t size) override {
    const std::vector<float>& factors = random_.shape.rope_factors;
    FARSPAN_CHECK(name == kRopeFactors && std::cmp_equal(factors.size(), size), "size=", size);
    content_hash_.Add(std::as_bytes(std::span(factors)));
    return factors;
  }

  absl::Status Finish() override {
    if (num_without_tiles_ > 0) {
      Log().warn(
          "quantised weights of {} tensors have no tiles and are multiplied slowly: rows must be a multiple of {}, "
          "columns of {}",
          num_without_tiles_, kernels::kTileRows, kernels::kTileColumns);
    }
    return backend_->Wait(backend_->Submit());
  }

 private:
  int64_t PlannedBytes() const override {
    const LlamaSpec& spec = random_.shape.spec;
    const LlamaConfig& config = spec.config;
    const int64_t vocabularies = random_.shape.tied_embeddings ? 1 : 2, num_norms = 2 * config.num_layers + 1;
    const int64_t layer = config.width * (2 * config.query_width() + 2 * config.kv_width()) +
                          3 * config.width * config.feed_forward_width;
    const int64_t values = vocabularies * spec.vocab_size * config.width + config.num_layers * layer;
    const int64_t num_pieces = vocabularies + 7 * config.num_layers;
    return kernels::WeightRowBytes(type_, values) + num_norms * Arena::PieceBytes(config.width * kFloatBytes) +
           num_pieces * Arena::PieceBytes(1);
  }

  static constexpr int64_t kFloatBytes = sizeof(float);
  static constexpr std::string_view kRopeFactors = "rope_freqs.weight";

  bool IsQuantised() const { return type_ == kernels::WeightType::kQ4_0 || type_ == kernels::WeightType::kQ8_0; }

  absl::Status CheckColumns(std::string_view name, int64_t columns) const {
    if (!IsQuantised() || columns % kernels::kQuantBlock == 0) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat("tensor ", AbslView(name), ": expected rows of a multiple of ",
                                                   kernels::kQuantBlock, " values for quantised weights, got ",
                                                   columns));
  }

  void Count(std::string_view name, int64_t rows, int64_t columns) {
    num_parameters_ += rows * columns;
    content_hash_.AddText(absl::StrCat(AbslView(name), " ", rows, " ", columns));
  }

  // Tiles have the values of the blocks that they are made of: a tile's row has as many bytes as a block's.
  absl::StatusOr<kernels::WeightView> Fill(std::string_view name, void* device, int64_t rows, int64_t columns) {
    kernels::WeightView view = {.data = device, .type = type_, .rows = rows, .columns = columns};
    const bool wants_tiles = backend_->weight_layout() == kernels::WeightLayout::kTiles;
    const bool tiled = wants_tiles && kernels::TilesOf(view) != type_;
    if (wants_tiles && IsQuantised() && !tiled) ++num_without_tiles_;
    std::unique_ptr<Buffer> blocks;
    if (tiled) {
      FARSPAN_ASSIGN_OR_RETURN(
          blocks, backend_->Allocate(rows * kernels::WeightRowBytes(type_, columns), MemoryKind::kWeights));
      view.data = blocks->data();
    }
    backend_->FillRandom({.data = const_cast<void*>(view.data),
                          .format = random_.weights,
                          .num_values = rows * columns,
                          .key = KeyOf(name, random_.seed),
                          .exponent = kExponent});
    Count(name, rows, columns);
    if (!tiled) return view;
    backend_->PackTiles({.blocks = view, .tiles = device});
    FARSPAN_RETURN_IF_ERROR(backend_->Wait(backend_->Submit()));  // before the blocks go
    return kernels::WeightView{.data = device, .type = kernels::TilesOf(view), .rows = rows, .columns = columns};
  }

  const RandomModelOptions& random_;
  const kernels::WeightType type_;
  int64_t num_without_tiles_ = 0;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Model>> CreateRandomModel(const RandomModelOptions& random, Backend* backend,
                                                         const ModelOptions& options) {
  RandomWeights weights(random, backend);
  return CreateLlama(random.shape.spec, weights, backend, options);
}

}  // namespace farspan
