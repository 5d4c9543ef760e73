// SPDX-License-Identifier: Apache-2.0
// Draws a token from each row of logits without sorting it. The blocks of a row keep it in shared memory and search the
// last logit that a filter keeps by counting, or weighing, what lies above three pivots at a time; once few candidates
// are left, one block gathers them and answers from ranks. Weights are float32 summed in float64, in one fixed order.
#include <cfloat>
#include <climits>

#include "engine/kernels/cuda/device.cuh"
#include "engine/kernels/cuda/kernels.h"
#include "engine/kernels/cuda/philox.cuh"
#include "engine/kernels/cuda/row_blocks.cuh"
#include "engine/kernels/cuda/row_slice.cuh"

namespace farspan::kernels::cuda {
namespace {

constexpr int kLinearRounds = 6;  // of a search, before it halves the representation instead of the value

template <typename Shape>
struct SharedState {
  RowExchange<Shape> exchange;
  double weights[kMaxGathered];
  float logits[kMaxGathered];
  int32_t tokens[kMaxGathered];
  double warp_masses[RowExchange<Shape>::kWarps];
  int first_drawn, last_kept;
};

// Draws for one row; every member is called by all threads of the row's blocks.
template <typename Shape>
class RowDraw {
 public:
  using Blocks = RowBlocks<Shape>;

  __device__ RowDraw(const DrawArgs& args, int64_t row, SharedState<Shape>* shared, float* logits, int32_t piece,
                     int32_t rows_ahead)
      : args_(args),
        params_(args.rows[row]),
        row_(row),
        rows_ahead_(rows_ahead),
        shared_(*shared),
        blocks_(&shared->exchange) {
    slice_.logits = logits;
    slice_.size = piece * Blocks::kWarps;
    slice_.first_token = slice_.size * blocks_.rank();
    slice_.warp_begin = piece * blocks_.warp();
    slice_.warp_end = slice_.warp_begin + piece;
    slice_.lane = blocks_.lane();
  }

  __device__ void Run();

 private:
  struct Normaliser {
    float largest = 0;
    double log_sum = 0;
    __device__ float Logprob(float logit) const {
      return static_cast<float>(static_cast<double>(logit) - static_cast<double>(largest) - log_sum);
    }
  };

  __device__ bool wants_logprobs() const { return params_.num_alternatives >= 0; }
  __device__ bool first_thread() const { return blocks_.rank() == 0 && threadIdx.x == 0; }

  __device__ void Finish(int32_t token);
  __device__ void Alternatives();
  __device__ void Penalise();
  __device__ void DrawAtRandom(float largest);
  template <bool kMass>
  __device__ Partial Survey(const Cut& cut, const Softmax& softmax);
  template <bool kMass>
  __device__ void Narrow(double target, bool whole, const Softmax& softmax, Bracket* bracket);
  __device__ Cut CutAt(const Cut& within, const Bracket& bracket, double num_wanted);
  __device__ int32_t TokenOfTie(const Cut& within, float logit, uint32_t num_ties);
  __device__ int Gather(const Cut& cut, float below);
  template <bool kMass>
  __device__ Cut CutBetween(const Cut& within, const Bracket& bracket, double target, const Softmax& softmax);
  __device__ void DrawFromSlices(const Cut& cut, const Softmax& softmax);
  __device__ void DrawFromGathered(int count, int32_t top_k, double mass_target, const Softmax& softmax);

  const DrawArgs& args_;
  const DrawRow& params_;
  const int64_t row_;
  const int64_t rows_ahead_;  // rows on the chip at one time
  SharedState<Shape>& shared_;
  Blocks blocks_;
  Slice slice_;
  Normaliser normaliser_;
};

template <typename Shape>
__device__ void RowDraw<Shape>::Run() {
  if (params_.idle) return;
  const bool given = params_.given_token != kNoToken;
  DrawnRow& drawn = args_.drawn[row_];
  if (given && !wants_logprobs()) {
    if (first_thread()) drawn.soundness = LogitSoundness::kSound;
    if (first_thread()) Finish(params_.given_token);
    return;
  }
  blocks_.SayStarted();
  const bool penalises = !given && params_.num_counts > 0;
  const bool keeps = wants_logprobs() || penalises || !params_.greedy;
  const float* const logits = args_.logits + row_ * args_.vocab_size;
  const unsigned long long of_warp =
      keeps ? ReadPiece<true>(logits, args_.vocab_size, slice_) : ReadPiece<false>(logits, args_.vocab_size, slice_);
  // The row that takes this one's place on the chip: H200, 256 rows of 128,256 logits: 39 us, 42 us without.
  if (row_ + rows_ahead_ < args_.num_rows) {
    slice_.Prefetch(args_.logits + (row_ + rows_ahead_) * args_.vocab_size, args_.vocab_size);
  }
  blocks_.AwaitStarted();
  unsigned long long best = blocks_.Best(of_warp);
  const LogitSoundness soundness = SoundnessOf(best);
  if (first_thread()) drawn.soundness = soundness;
  if (soundness != LogitSoundness::kSound) {
    if (first_thread() && args_.next_token_ids != nullptr) args_.next_token_ids[row_] = 0;
    return;
  }
  if (wants_logprobs()) {
    normaliser_.largest = LogitOf(best);
    Alternatives();
  }
  if (given) {
    if (first_thread()) Finish(params_.given_token);
    return;
  }
  if (penalises) {
    Penalise();
    best = blocks_.Best(slice_.Best());
  }
  if (!params_.greedy) {
    DrawAtRandom(LogitOf(best));
  } else if (first_thread()) {
    Finish(TokenOf(best));
  }
}

template <typename Shape>
__device__ void RowDraw<Shape>::Finish(int32_t token) {
  DrawnRow& drawn = args_.drawn[row_];
  drawn.token = token;
  if (wants_logprobs()) drawn.logprob = normaliser_.Logprob(args_.logits[row_ * args_.vocab_size + token]);
  if (args_.next_token_ids != nullptr) args_.next_token_ids[row_] = token;
}

template <typename Shape>
__device__ void RowDraw<Shape>::Penalise() {
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < params_.num_counts; i += Shape::kThreads) {
    const CountedToken counted = args_.counts[params_.counts_begin + i];
    const int32_t place = counted.token - slice_.first_token;
    if (place < 0 || place >= slice_.size) continue;
    slice_.logits[place] = Penalised(slice_.logits[place], counted.in_output, params_);
  }
  __syncthreads();
}

// How many logits the cut keeps, the least of them, and what they weigh together.
template <typename Shape>
template <bool kMass>
__device__ Partial RowDraw<Shape>::Survey(const Cut& cut, const Softmax& softmax) {
  Partial partial = {.mass = {}, .count = {}, .least = INFINITY};
  slice_.ForEachGroup([&](const float(&x)[kGroup], int place) {
    float mass = 0;
#pragma unroll
    for (int i = 0; i < kGroup; ++i) {
      const bool keeps = cut.Keeps(x[i], slice_.first_token + place + i);
      partial.count[0] += keeps ? 1 : 0;
      partial.least = keeps ? fminf(partial.least, x[i]) : partial.least;
      if constexpr (kMass) mass += keeps ? softmax.Weight(x[i]) : 0.0f;
    }
    if constexpr (kMass) partial.mass[0] += mass;
  });
  return blocks_.template Total<kMass>(WarpSum<kMass>(partial));
}

// Narrows the bracket until what lies from its low end on can be gathered, or, unless `whole`, what lies between its
// ends; or until the ends are neighbours and its low end is the cut.
template <typename Shape>
template <bool kMass>
__device__ void RowDraw<Shape>::Narrow(double target, bool whole, const Softmax& softmax, Bracket* bracket) {
  for (int round = 0; !bracket->gatherable() && (whole || !bracket->gatherable_between()); ++round) {
    const uint32_t low = OrderOf(bracket->low), high = OrderOf(bracket->high);
    if (high - low <= 1) return;
    const bool linear = round < kLinearRounds && IsFinite(bracket->low) && IsFinite(bracket->high);
    float pivots[kPivots];
#pragma unroll
    for (int i = 0; i < kPivots; ++i) {
      const double part = static_cast<double>(i + 1) / (kPivots + 1);
      const double width = static_cast<double>(bracket->high) - static_cast<double>(bracket->low);
      const uint32_t order = linear ? OrderOf(static_cast<float>(bracket->low + width * part))
                                    : low + static_cast<uint32_t>((high - low) * part);
      pivots[i] = FloatOf(min(max(order, low + 1), high - 1));
    }
    Partial above = {.mass = {}, .count = {}, .least = INFINITY};
    slice_.ForEachGroup([&](const float(&x)[kGroup], int) {
      if (!(fmaxf(fmaxf(x[0], x[1]), fmaxf(x[2], x[3])) >= pivots[0])) return;
      float mass[kPivots] = {};
#pragma unroll
      for (int j = 0; j < kGroup; ++j) {
        const float weight = kMass ? softmax.Weight(x[j]) : 0;
#pragma unroll
        for (int i = 0; i < kPivots; ++i) {
          above.count[i] += x[j] >= pivots[i] ? 1 : 0;
          if constexpr (kMass) mass[i] += x[j] >= pivots[i] ? weight : 0.0f;
        }
      }
#pragma unroll
      for (int i = 0; i < kPivots; ++i) {
        if constexpr (kMass) above.mass[i] += mass[i];
      }
    });
    above = blocks_.template Total<kMass>(WarpSum<kMass>(above));
    bool found = false;
#pragma unroll
    for (int i = kPivots - 1; i >= 0; --i) {
      if (found) continue;
      found = (kMass ? above.mass[i] : static_cast<double>(above.count[i])) >= target;
      (found ? bracket->low : bracket->high) = pivots[i];
      (found ? bracket->count_low : bracket->count_high) = above.count[i];
      if (!found) bracket->mass_high = above.mass[i];
    }
  }
}

// The cut at a bracket that cannot be narrowed: of the logits equal to its low end, `num_wanted` are kept.
template <typename Shape>
__device__ Cut RowDraw<Shape>::CutAt(const Cut& within, const Bracket& bracket, double num_wanted) {
  const uint32_t num_equal = bracket.count_low - bracket.count_high;
  Cut cut;
  cut.logit = bracket.low;
  cut.last_token = bracket.low == within.logit ? within.last_token : INT_MAX;
  if (num_wanted < num_equal) {
    cut.last_token = TokenOfTie(cut, bracket.low, num_wanted > 1 ? static_cast<uint32_t>(num_wanted) : 1);
  }
  return cut;
}

// The token of the num_ties-th logit that equals `logit`.
template <typename Shape>
__device__ int32_t RowDraw<Shape>::TokenOfTie(const Cut& within, float logit, uint32_t num_ties) {
  const auto is_tie = [&](float x, int32_t token) { return x == logit && within.Keeps(x, token); };
  Partial mine = {};
  slice_.ForEachGroup([&](const float(&x)[kGroup], int place) {
#pragma unroll
    for (int i = 0; i < kGroup; ++i) mine.count[0] += is_tie(x[i], slice_.first_token + place + i) ? 1 : 0;
  });
  mine.count[0] = WarpSum(mine.count[0]);
  const Partial* const all = blocks_.Share(mine);
  uint32_t before = 0;
  for (int other = 0; other < blocks_.row_warp(); ++other) before += all[other].count[0];
  Partial found = {};
  if (before < num_ties && before + mine.count[0] >= num_ties) {
    slice_.ForEachGroup([&](const float(&x)[kGroup], int place) {
      uint32_t in_lane = 0;
#pragma unroll
      for (int i = 0; i < kGroup; ++i) in_lane += is_tie(x[i], slice_.first_token + place + i) ? 1 : 0;
      const uint32_t through = WarpScan(in_lane);
      uint32_t rank = before + through - in_lane;
#pragma unroll
      for (int i = 0; i < kGroup; ++i) {
        const int32_t token = slice_.first_token + place + i;
        if (is_tie(x[i], token) && ++rank == num_ties) found.count[0] = static_cast<uint32_t>(token);
      }
      before += __shfl_sync(kWholeWarp, through, kWarpThreads - 1);
    });
  }
  return static_cast<int32_t>(blocks_.template Total<false>(WarpSum<false>(found)).count[0]);
}

// Copies what the cut keeps of the logits under `below`, at most kMaxGathered, to the first block in the order of
// tokens; how many.
template <typename Shape>
__device__ int RowDraw<Shape>::Gather(const Cut& cut, float below) {
  const auto takes = [&](float x, int32_t token) { return cut.Keeps(x, token) & (x < below); };
  Partial mine = {};
  slice_.ForEachGroup([&](const float(&x)[kGroup], int place) {
#pragma unroll
    for (int i = 0; i < kGroup; ++i) mine.count[0] += takes(x[i], slice_.first_token + place + i) ? 1 : 0;
  });
  mine.count[0] = WarpSum(mine.count[0]);
  const Partial* const all = blocks_.Share(mine);
  uint32_t before = 0, total = 0;
  for (int other = slice_.lane; other < Blocks::kRowWarps; other += kWarpThreads) {
    total += all[other].count[0];
    before += other < blocks_.row_warp() ? all[other].count[0] : 0;
  }
  before = WarpSum(before);
  total = WarpSum(total);
  if (mine.count[0] > 0) {
    float* const logits = blocks_.On(0, shared_.logits);
    int32_t* const tokens = blocks_.On(0, shared_.tokens);
    slice_.ForEachGroup([&](const float(&x)[kGroup], int place) {
      uint32_t in_lane = 0;
#pragma unroll
      for (int i = 0; i < kGroup; ++i) in_lane += takes(x[i], slice_.first_token + place + i) ? 1 : 0;
      const uint32_t through = WarpScan(in_lane);
      uint32_t slot = before + through - in_lane;
#pragma unroll
      for (int i = 0; i < kGroup; ++i) {
        const int32_t token = slice_.first_token + place + i;
        if (!takes(x[i], token)) continue;
        logits[slot] = x[i];
        tokens[slot++] = token;
      }
      before += __shfl_sync(kWholeWarp, through, kWarpThreads - 1);
    });
  }
  blocks_.Meet();
  return static_cast<int>(total);
}

// The cut inside a bracket whose logits between its ends can be gathered: what they need of it, the first block finds.
template <typename Shape>
template <bool kMass>
__device__ Cut RowDraw<Shape>::CutBetween(const Cut& within, const Bracket& bracket, double target,
                                          const Softmax& softmax) {
  Cut from = within;
  if (bracket.low > within.logit) from = {bracket.low, INT_MAX};
  const int count = Gather(from, bracket.high);
  const int mine = static_cast<int>(threadIdx.x);
  Partial cut = {.mass = {}, .count = {}, .least = INFINITY};
  if (blocks_.rank() == 0) {
    const float logit = mine < count ? shared_.logits[mine] : -INFINITY;
    if (kMass && mine < count) shared_.weights[mine] = softmax.ExactWeight(logit);
    __syncthreads();
    double reached = kMass ? bracket.mass_high : static_cast<double>(bracket.count_high);
    int rank = 0;
    for (int other = 0; other < count; ++other) {
      const float theirs = shared_.logits[other];
      if (!(theirs > logit || (theirs == logit && other < mine))) continue;
      ++rank;
      reached += kMass ? shared_.weights[other] : 1.0;
    }
    const bool needed = mine < count && reached < target;
    const int num_needed = __syncthreads_count(needed ? 1 : 0);
    if (needed && rank == num_needed - 1) {
      cut.count[0] = static_cast<uint32_t>(shared_.tokens[mine]);
      cut.least = logit;
    }
  }
  cut = blocks_.template Total<false>(WarpSum<false>(cut));
  return {cut.least, static_cast<int32_t>(cut.count[0])};
}

// The normaliser of log-probabilities, and the likeliest tokens with theirs, from the model's logits.
template <typename Shape>
__device__ void RowDraw<Shape>::Alternatives() {
  const Softmax softmax(normaliser_.largest, 1.0);
  const Partial all = Survey<true>({}, softmax);
  normaliser_.log_sum = log(all.mass[0]);
  const int num_wanted =
      params_.num_alternatives < args_.vocab_size ? params_.num_alternatives : static_cast<int>(args_.vocab_size);
  DrawnRow& drawn = args_.drawn[row_];
  if (first_thread()) drawn.num_alternatives = num_wanted;
  if (num_wanted == 0) return;
  // Where too few tokens are possible, impossible ones follow.
  const bool enough = static_cast<uint32_t>(num_wanted) <= all.count[0];
  Cut cut;
  if (!enough) cut.logit = -INFINITY;
  Bracket bracket = {.low = enough ? all.least : -INFINITY,
                     .high = FloatOf(OrderOf(normaliser_.largest) + 1),
                     .count_low = enough ? all.count[0] : static_cast<uint32_t>(args_.vocab_size),
                     .count_high = 0,
                     .mass_high = 0};
  Narrow<false>(num_wanted, true, softmax, &bracket);
  if (bracket.gatherable()) {
    cut.logit = bracket.low;
  } else {
    cut = CutAt(cut, bracket, static_cast<double>(num_wanted) - bracket.count_high);
  }
  const int count = Gather(cut, INFINITY);
  const int mine = static_cast<int>(threadIdx.x);
  if (blocks_.rank() != 0 || mine >= count) return;
  const float logit = shared_.logits[mine];
  int rank = 0;
  for (int other = 0; other < count; ++other) {
    const float theirs = shared_.logits[other];
    rank += theirs > logit || (theirs == logit && other < mine) ? 1 : 0;
  }
  if (rank >= num_wanted) return;
  drawn.alternative_tokens[rank] = shared_.tokens[mine];
  drawn.alternative_logprobs[rank] = normaliser_.Logprob(logit);
}

template <typename Shape>
__device__ void RowDraw<Shape>::DrawAtRandom(float largest) {
  const Softmax softmax(largest, params_.temperature);
  const float above_all = FloatOf(OrderOf(largest) + 1);
  Cut cut;
  if (params_.top_k > 0) {
    const double target = params_.top_k;
    const Partial all = Survey<false>(cut, softmax);
    if (target < all.count[0]) {
      Bracket bracket = {all.least, above_all, all.count[0], 0, 0};
      Narrow<false>(target, false, softmax, &bracket);
      if (bracket.gatherable()) {
        cut.logit = bracket.low;
        return DrawFromGathered(Gather(cut, INFINITY), params_.top_k, -1, softmax);
      }
      cut = bracket.gatherable_between() ? CutBetween<false>(cut, bracket, target, softmax)
                                         : CutAt(cut, bracket, target - bracket.count_high);
    }
  }
  if (params_.top_p < 1) {
    const Partial all = Survey<true>(cut, softmax);
    const double target = params_.top_p * all.mass[0];
    Bracket bracket = {all.least, above_all, all.count[0], 0, 0};
    Narrow<true>(target, false, softmax, &bracket);
    if (bracket.gatherable()) {
      if (bracket.low > cut.logit) cut = {bracket.low, INT_MAX};
      return DrawFromGathered(Gather(cut, INFINITY), 0, target, softmax);
    }
    cut = bracket.gatherable_between()
              ? CutBetween<true>(cut, bracket, target, softmax)
              : CutAt(cut, bracket, ceil((target - bracket.mass_high) / softmax.Weight(bracket.low)));
  }
  DrawFromSlices(cut, softmax);
}

// At the uniform of the cumulated weights: the warp whose piece holds it finds the token.
template <typename Shape>
__device__ void RowDraw<Shape>::DrawFromSlices(const Cut& cut, const Softmax& softmax) {
  const float least_weight = static_cast<float>(params_.min_p);
  const auto weight_of = [&](float x, int32_t token) {
    const float weight = softmax.Weight(x);
    return cut.Keeps(x, token) & (weight >= least_weight) ? weight : 0.0f;
  };
  Partial mine = {};
  slice_.ForEachGroup([&](const float(&x)[kGroup], int place) {
    float mass = 0;
#pragma unroll
    for (int i = 0; i < kGroup; ++i) mass += weight_of(x[i], slice_.first_token + place + i);
    mine.mass[0] += mass;
  });
  mine.mass[0] = WarpSum(mine.mass[0]);
  const Partial* const all = blocks_.Share(mine);
  constexpr int kShare = Blocks::kRowWarps / kWarpThreads;
  double of_lane = 0;
  for (int i = 0; i < kShare; ++i) of_lane += all[slice_.lane * kShare + i].mass[0];
  const double target = UniformDraw(params_) * __shfl_sync(kWholeWarp, WarpScan(of_lane), kWarpThreads - 1);
  LaneFound found = FindLane(of_lane, 0, target);
  // Where rounding leaves the target unreached, the last possible token is drawn.
  if (found.lane == kWarpThreads) {
    found.lane = found.last;
    found.before = -INFINITY;
  }
  int owner = found.lane * kShare;
  for (int i = 0; i + 1 < kShare; ++i) {
    const double mass = all[owner].mass[0];
    const bool here = mass > 0 && (found.before + mass > target || all[owner + 1].mass[0] <= 0);
    if (here) break;
    found.before += mass;
    ++owner;
  }
  if (owner != blocks_.row_warp()) return;
  // Each lane weighs a part of the piece, then all lanes look into the part that holds the place.
  const int part = (slice_.warp_end - slice_.warp_begin) / kWarpThreads;
  const auto weight_at = [&](int place) { return weight_of(slice_.logits[place], slice_.first_token + place); };
  of_lane = 0;
  for (int i = 0; i < part; ++i) of_lane += weight_at(slice_.warp_begin + slice_.lane * part + i);
  const LaneFound in_piece = FindLane(of_lane, found.before, target);
  const int begin = slice_.warp_begin + (in_piece.lane == kWarpThreads ? in_piece.last : in_piece.lane) * part;
  double before = in_piece.lane == kWarpThreads ? -INFINITY : in_piece.before;
  int chosen = begin;
  for (int i = 0; i < part; i += kWarpThreads) {
    const double weight = i + slice_.lane < part ? weight_at(begin + i + slice_.lane) : 0.0;
    const LaneFound in_part = FindLane(weight, before, target);
    if (in_part.last >= 0) chosen = begin + i + (in_part.lane == kWarpThreads ? in_part.last : in_part.lane);
    if (in_part.lane != kWarpThreads) break;
    before = __shfl_sync(kWholeWarp, before + WarpScan(weight), kWarpThreads - 1);
  }
  if (slice_.lane == 0) Finish(slice_.first_token + chosen);
}

// The same among what the first block has gathered, one candidate a thread. Of the larger candidates each one has as
// many as its rank, and their weights together decide whether top_p needs it. `mass_target` is what top_p keeps; below
// 0 it is a share of the candidates that top_k keeps.
template <typename Shape>
__device__ void RowDraw<Shape>::DrawFromGathered(int count, int32_t top_k, double mass_target, const Softmax& softmax) {
  if (blocks_.rank() != 0) return;
  const int mine = static_cast<int>(threadIdx.x);
  const auto sum_of_block = [&](double of_warp) {
    if (blocks_.lane() == 0) shared_.warp_masses[blocks_.warp()] = of_warp;
    __syncthreads();
    double sum = 0;
    for (int warp = 0; warp < Blocks::kWarps; ++warp) sum += shared_.warp_masses[warp];
    return sum;
  };
  const float logit = mine < count ? shared_.logits[mine] : -INFINITY;
  double weight = mine < count ? softmax.ExactWeight(logit) : 0;
  if (mine < count) shared_.weights[mine] = weight;
  if (mine == 0) shared_.first_drawn = INT_MAX, shared_.last_kept = 0;
  __syncthreads();
  int rank = 0;
  double mass_above = 0;
  for (int other = 0; other < count; ++other) {
    const float theirs = shared_.logits[other];
    if (!(theirs > logit || (theirs == logit && other < mine))) continue;
    ++rank;
    mass_above += shared_.weights[other];
  }
  if (top_k > 0 && rank >= top_k) weight = 0;
  if (params_.top_p < 1) {
    const double target = mass_target >= 0 ? mass_target : params_.top_p * sum_of_block(WarpSum(weight));
    __syncthreads();
    if (mass_above >= target) weight = 0;
  }
  if (weight < params_.min_p) weight = 0;
  double within = WarpScan(weight);
  const double total = sum_of_block(__shfl_sync(kWholeWarp, within, kWarpThreads - 1));
  for (int warp = 0; warp < blocks_.warp(); ++warp) within += shared_.warp_masses[warp];
  if (weight > 0) {
    atomicMax(&shared_.last_kept, mine);
    if (within > UniformDraw(params_) * total) atomicMin(&shared_.first_drawn, mine);
  }
  __syncthreads();
  if (mine == 0) Finish(shared_.tokens[shared_.first_drawn != INT_MAX ? shared_.first_drawn : shared_.last_kept]);
}

template <typename Shape>
__global__ __launch_bounds__(Shape::kThreads,
                             Shape::kBlocksPerMultiprocessor) void DrawKernel(DrawArgs args, float* workspace,
                                                                              int32_t piece, int32_t rows_ahead) {
  extern __shared__ float4 slice_memory[];
  __shared__ SharedState<Shape> shared;
  WaitForPrevious();
  LetNextStart();
  const int64_t row = blockIdx.x / Shape::kRanks;
  float* const logits = Shape::kRanks > 1 ? reinterpret_cast<float*>(slice_memory)
                                          : workspace + row * piece * RowBlocks<Shape>::kRowWarps;
  RowDraw<Shape>(args, row, &shared, logits, piece, rows_ahead).Run();
}

// Logits of one warp's piece: whole tiles.
template <typename Shape>
int64_t PieceOf(int64_t vocab_size) {
  constexpr int64_t kRowTile = int64_t{kTile} * RowBlocks<Shape>::kRowWarps;
  return (vocab_size + kRowTile - 1) / kRowTile * kTile;
}

template <typename Shape>
int32_t RowsOnChip() {
  return CurrentDeviceTraits().num_multiprocessors * Shape::kBlocksPerMultiprocessor / Shape::kRanks;
}

int64_t SliceBytes(int64_t vocab_size) {
  return PieceOf<ClusterShape>(vocab_size) * RowBlocks<ClusterShape>::kWarps * static_cast<int64_t>(sizeof(float));
}

int64_t MaxSliceBytes() {
  return CurrentDeviceTraits().max_shared_bytes - static_cast<int64_t>(sizeof(SharedState<ClusterShape>)) - 1024;
}

bool FitsCluster(int64_t vocab_size) {
  return CurrentDeviceTraits().runs_hopper_code() && SliceBytes(vocab_size) <= MaxSliceBytes();
}

cudaError_t LaunchOnClusters(const DrawArgs& args, cudaStream_t stream) {
  static const cudaError_t allowed = cudaFuncSetAttribute(
      DrawKernel<ClusterShape>, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(MaxSliceBytes()));
  if (allowed != cudaSuccess) return allowed;
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim.x = ClusterShape::kRanks;
  attributes[1].val.clusterDim.y = 1;
  attributes[1].val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(args.num_rows * ClusterShape::kRanks));
  config.blockDim = dim3(ClusterShape::kThreads);
  config.dynamicSmemBytes = static_cast<size_t>(SliceBytes(args.vocab_size));
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = 2;
  return cudaLaunchKernelEx(&config, DrawKernel<ClusterShape>, args, static_cast<float*>(nullptr),
                            static_cast<int32_t>(PieceOf<ClusterShape>(args.vocab_size)), RowsOnChip<ClusterShape>());
}

}  // namespace

int64_t DrawWorkspaceBytes(int64_t num_rows, int64_t vocab_size) {
  if (FitsCluster(vocab_size)) return 0;
  return num_rows * PieceOf<SingleBlockShape>(vocab_size) * RowBlocks<SingleBlockShape>::kRowWarps *
         static_cast<int64_t>(sizeof(float));
}

cudaError_t LaunchDraw(const DrawArgs& args, const Workspace& workspace, cudaStream_t stream) {
  if (args.num_rows == 0) return cudaSuccess;
  if (FitsCluster(args.vocab_size)) return LaunchOnClusters(args, stream);
  if (workspace.size_bytes < DrawWorkspaceBytes(args.num_rows, args.vocab_size)) return cudaErrorInvalidValue;
  return LaunchKernel(DrawKernel<SingleBlockShape>, dim3(static_cast<unsigned>(args.num_rows)),
                      dim3(SingleBlockShape::kThreads), 0, stream, args, workspace.data,
                      PieceOf<SingleBlockShape>(args.vocab_size), RowsOnChip<SingleBlockShape>());
}

}  // namespace farspan::kernels::cuda
