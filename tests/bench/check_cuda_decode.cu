// SPDX-License-Identifier: Apache-2.0
#include <functional>

#include "tests/bench/cuda_decode_batch.cuh"

namespace farspan {
namespace {

struct Result {
  std::vector<uint16_t> out;
  std::vector<float> lse;
};

Result Run(const Batch& batch, const std::function<cudaError_t(const kernels::DecodeAttentionArgs&)>& launch) {
  CHECK_CUDA(cudaMemset(batch.out.data(), 0xff, batch.OutSize() * 2));
  CHECK_CUDA(cudaMemset(batch.lse.data(), 0xff, static_cast<size_t>(batch.shape.num_rows * batch.shape.num_heads) * 4));
  CHECK_CUDA(launch(batch.Args()));
  CHECK_CUDA(cudaDeviceSynchronize());
  return {batch.out.Get(), batch.lse.Get()};
}

// A random list over tokens [0, context): gaps, cut pages, masks, caps, sinks.
std::vector<kernels::KvEntry> RandomList(const Shape& shape, int64_t context, bool is_plain) {
  std::vector<kernels::KvEntry> entries;
  std::vector<int32_t> table;
  const int64_t first = Integer(0, shape.num_pages - 1);
  for (int64_t begin = 0; begin < context; begin += shape.page_tokens) {
    table.push_back(static_cast<int32_t>((first + 5 * (begin / shape.page_tokens)) % shape.num_pages));
  }
  for (int64_t position = 0; position < context;) {
    const int64_t token = position % shape.page_tokens;
    int64_t count = std::min(context - position, shape.page_tokens - token);
    if (!is_plain && OneIn(4)) count = Integer(1, count);
    if (is_plain || !OneIn(8)) {
      entries.push_back(
          {.page = table[static_cast<size_t>(position / shape.page_tokens)],
           .first_valid = static_cast<int32_t>(token),
           .num_valid = static_cast<int32_t>(count),
           .head_mask = is_plain || !OneIn(4) ? kernels::kAllHeads : static_cast<uint32_t>(engine()),
           .position = position,
           .query_cap = is_plain || !OneIn(4) ? kernels::kNoQueryCap : position + count - 1 + Integer(0, 50),
           .ignores_left_window = !is_plain && OneIn(4)});
    }
    position += count;
  }
  return entries;
}

struct Trial {
  Shape shape;
  bool is_plain;  // whole pages that every head reads
  std::vector<kernels::DecodeRow> rows;
  std::vector<kernels::KvList> lists;
  std::vector<kernels::KvEntry> entries;
};

Trial RandomTrial() {
  constexpr int64_t kDims[] = {64, 80, 96, 128, 256, 192, 48}, kPages[] = {16, 32, 64};
  constexpr kernels::KvElement kElements[] = {kernels::KvElement::kBf16, kernels::KvElement::kF16,
                                              kernels::KvElement::kF8E4M3};
  const int64_t group = Integer(1, 16), kv_heads = Integer(1, 8);
  Trial trial = {.shape = {.num_heads = group * kv_heads,
                           .num_kv_heads = kv_heads,
                           .head_dim = kDims[Integer(0, 6)],
                           .page_tokens = kPages[Integer(0, 2)],
                           .num_pages = 64,
                           .num_rows = OneIn(6) ? Integer(20, 200) : Integer(1, 9),
                           .element = kElements[Integer(0, 2)]},
                 .is_plain = OneIn(3)};
  const bool is_per_head = OneIn(2);
  for (int64_t row = 0; row < trial.shape.num_rows; ++row) {
    const int64_t context = OneIn(6) ? 0 : OneIn(4) ? Integer(1, 20000) : Integer(1, 700);
    trial.rows.push_back({.row = row,
                          .position = std::max<int64_t>(context + (trial.is_plain ? 0 : Integer(-20, 20)), 0),
                          .left_window = trial.is_plain || OneIn(2) ? kernels::kNoLeftWindow : Integer(1, 900)});
    for (int64_t head = 0; head < kv_heads; ++head) {
      if (head > 0 && !is_per_head) {
        trial.lists.push_back(trial.lists.back());
        continue;
      }
      const std::vector<kernels::KvEntry> list = RandomList(trial.shape, context, trial.is_plain);
      trial.lists.push_back({static_cast<int64_t>(trial.entries.size()), static_cast<int64_t>(list.size())});
      trial.entries.insert(trial.entries.end(), list.begin(), list.end());
    }
  }
  return trial;
}

struct Difference {
  double relative;  // of the outputs' norms
  double worst;
  double worst_lse;
};

Difference Compare(const Result& reference, const Result& result) {
  double worst = 0, worst_lse = 0, error2 = 0, norm2 = 0;
  for (size_t i = 0; i < result.out.size(); ++i) {
    const double want = Bf16ToFloat(reference.out[i]), difference = std::fabs(Bf16ToFloat(result.out[i]) - want);
    worst = difference <= worst || std::isnan(worst) ? worst : difference;  // NaN stays
    error2 += difference * difference;
    norm2 += want * want;
  }
  for (size_t i = 0; i < result.lse.size(); ++i) {
    if (result.lse[i] == reference.lse[i]) continue;
    const double difference = std::fabs(result.lse[i] - reference.lse[i]);
    worst_lse = difference <= worst_lse || std::isnan(worst_lse) ? worst_lse : difference;
  }
  return {norm2 == 0 ? std::sqrt(error2) : std::sqrt(error2 / norm2), worst, worst_lse};
}

// The states, normalised, are the outputs that they stand for.
bool StatesMatch(const Batch& batch, const Result& result) {
  Array<float> out(batch.OutSize()), maximum(result.lse.size()), sum(result.lse.size());
  for (const auto* array : {&out, &maximum, &sum}) array->SetBytes(0xff);
  const kernels::DecodeStatesArgs args = {.attention = batch.Args(),
                                          .states = {out.data(), maximum.data(), sum.data()}};
  CHECK_CUDA(kernels::cuda::LaunchDecodeStates(args, batch.Scratch(), nullptr));
  CHECK_CUDA(cudaDeviceSynchronize());
  const std::vector<float> outs = out.Get(), maxima = maximum.Get(), sums = sum.Get();
  for (size_t i = 0; i < outs.size(); ++i) {
    const float head_sum = sums[i / static_cast<size_t>(batch.shape.head_dim)];
    const float want = Bf16ToFloat(result.out[i]), got = head_sum == 0 ? 0 : outs[i] / head_sum;
    if (!(std::fabs(got - want) <= 0.005f * (0.01f + std::fabs(want)))) return false;
  }
  for (size_t i = 0; i < sums.size(); ++i) {
    const float lse = maxima[i] + std::log(sums[i]);
    if (!(lse == result.lse[i] || std::fabs(lse - result.lse[i]) < 1e-4f)) return false;
  }
  return true;
}

bool CheckOne(int index) {
  const Trial trial = RandomTrial();
  const Shape& shape = trial.shape;
  const int64_t cache_size = shape.num_pages * shape.num_kv_heads * 2 * shape.page_tokens * shape.head_dim;
  Array<uint16_t> cache(static_cast<size_t>(cache_size));
  Fill(cache.data(), cache_size, shape.element);
  Batch batch(shape, trial.rows, trial.lists, trial.entries, cache.data());
  batch.lists_are_settled = OneIn(2);
  const auto fast = [&](const kernels::DecodeAttentionArgs& args) {
    return kernels::cuda::LaunchDecodeAttention(args, batch.Scratch(), nullptr);
  };
  const auto plain = [](const kernels::DecodeAttentionArgs& args) {
    return kernels::cuda::LaunchPlainDecodeAttention(args, nullptr);
  };
  const int64_t row = Integer(0, shape.num_rows - 1), row_size = shape.num_heads * shape.head_dim;
  const auto alone = [&](kernels::DecodeAttentionArgs args) {
    args.rows += row;
    args.lists += row * shape.num_kv_heads;
    args.num_rows = 1;
    return fast(args);
  };
  const Result result = Run(batch, fast), again = Run(batch, fast), single = Run(batch, alone);
  const Difference difference = Compare(Run(batch, plain), result);
  const bool is_same_alone = std::memcmp(single.out.data() + row * row_size, result.out.data() + row * row_size,
                                         static_cast<size_t>(row_size) * 2) == 0;
  const bool repeats = std::memcmp(result.out.data(), again.out.data(), result.out.size() * 2) == 0 &&
                       std::memcmp(result.lse.data(), again.lse.data(), result.lse.size() * 4) == 0;
  const bool is_close = difference.relative < 6e-3 && difference.worst < 0.05 && difference.worst_lse < 2e-3;
  const bool states_match = StatesMatch(batch, result);
  if (is_close && repeats && is_same_alone && states_match) return true;
  std::printf(
      "trial %d: element %d rows %ld heads %ld/%ld dim %ld page %ld plain %d: relative %.2e worst %.2e lse %.2e "
      "repeats %d alone %d states %d\n",
      index, static_cast<int>(shape.element), shape.num_rows, shape.num_heads, shape.num_kv_heads, shape.head_dim,
      shape.page_tokens, trial.is_plain, difference.relative, difference.worst, difference.worst_lse, repeats,
      is_same_alone, states_match);
  std::fflush(stdout);
  return false;
}

}  // namespace

bool CheckDecode(int trials) {
  int good = 0;
  for (int trial = 0; trial < trials; ++trial) good += CheckOne(trial) ? 1 : 0;
  std::printf("check: %d of %d trials good\n", good, trials);
  std::fflush(stdout);
  return good == trials;
}

}  // namespace farspan
