// SPDX-License-Identifier: Apache-2.0
// Attention in parts: the states of the parts of a list merge to the attention over all of it.
#include <gtest/gtest.h>

#include <cmath>

#include "engine/kernels/cpu/decode_splits.h"
#include "tests/engine/kernels/state_scene.h"

namespace farspan::kernels {
namespace {

constexpr double kTolerance = 2e-5;

void RunPart(const KernelTable& level, const DecodeStatesArgs& args, Random* random) {
  DecodeSplits splits;
  PlanDecodeSplits(args.attention, &splits);
  const AttentionCommon& common = args.attention.common;
  std::vector<float> partials(
      splits.splits.size() * static_cast<size_t>(DecodeGroup(common) * DecodePartialFloats(common)), kNan);
  const DecodePass pass = {.args = &args.attention,
                           .splits = splits.splits.data(),
                           .num_splits = static_cast<int64_t>(splits.splits.size()),
                           .first_split = splits.first_split.data(),
                           .partials = partials.data(),
                           .states = args.states};
  RunShuffled(level.decode_partials, pass, random);
  RunShuffled(level.decode_states, pass, random);
}

TEST(SoftmaxStatesTest, OfPartsMergeToTheAttentionOverAllOfThem) {
  Random random;
  for (int trial = 0; trial < 20; ++trial) {
    const StateScene scene(RandomShape(&random, kAllKvElements), &random);
    for (const KernelTable* level : KernelLevels()) {
      SCOPED_TRACE(level->name);
      const auto places = static_cast<size_t>(scene.num_places()), dim = static_cast<size_t>(scene.head_dim());
      const auto parts = static_cast<size_t>(scene.num_parts());
      std::vector<float> outs(parts * places * dim, kNan), maxima(parts * places, kNan), sums(parts * places, kNan);
      const SoftmaxStates all = {.out = outs.data(), .maximum = maxima.data(), .sum = sums.data()};
      const std::vector<float> q = scene.Queries(), rotations = scene.Rotations();
      std::vector<float> part_lse(places), out(places * dim, kNan), lse(places, kNan);
      AttentionCommon common = scene.scene().Common(scene.entries(), nullptr, part_lse.data());
      common.q = q.data(), common.rope_cos_sin = rotations.data();
      for (int64_t part = 0; part < scene.num_parts(); ++part) {
        RunPart(*level, scene.Part(part, common, scene.rows().data(), scene.lists().data(), all), &random);
        for (size_t i = 0; i < places; ++i) {
          const size_t state = static_cast<size_t>(part) * places + i;
          ASSERT_EQ(part_lse[i], maxima[state] + std::log(sums[state]));
          ASSERT_EQ(sums[state] == 0, std::isinf(maxima[state])) << "a head that saw nothing";
        }
      }
      RunShuffled(level->merge_states, scene.Merge(all, out.data(), lse.data(), Activation::kF32), &random);
      for (size_t i = 0; i < places; ++i) {
        const auto heads = static_cast<size_t>(scene.scene().num_heads());
        const auto expected = scene.Expected(static_cast<int64_t>(i / heads), static_cast<int64_t>(i % heads));
        for (size_t c = 0; c < dim; ++c) ASSERT_NEAR(out[i * dim + c], expected[c], kTolerance) << "channel " << c;
        if (std::isinf(expected[dim])) {
          ASSERT_EQ(lse[i], expected[dim]);
        } else {
          ASSERT_NEAR(lse[i], expected[dim], kTolerance);
        }
      }
    }
  }
}

TEST(SoftmaxStatesTest, ThatSawNothingCountNothingAndOthersKeepTheirBits) {
  constexpr int64_t kHeadDim = 8;
  std::vector<float> outs(3 * kHeadDim, 0), maxima = {-INFINITY, 2.5f, -INFINITY}, sums = {0, 1, 0};
  for (size_t c = 0; c < kHeadDim; ++c) outs[kHeadDim + c] = 0.1f * static_cast<float>(c);
  std::vector<float> out(kHeadDim, kNan), lse(1, kNan);
  MergeStatesArgs args = {.states = {.out = outs.data(), .maximum = maxima.data(), .sum = sums.data()},
                          .num_states = 3,
                          .out = out.data(),
                          .lse = lse.data(),
                          .num_rows = 1,
                          .num_heads = 1,
                          .head_dim = kHeadDim};
  Random random;
  RunShuffled(PortableKernels().merge_states, args, &random);
  EXPECT_TRUE(std::equal(out.begin(), out.end(), outs.begin() + kHeadDim));
  EXPECT_EQ(lse[0], 2.5f);
  args.num_states = 1;
  RunShuffled(PortableKernels().merge_states, args, &random);
  EXPECT_EQ(out, std::vector<float>(kHeadDim, 0));
  EXPECT_EQ(lse[0], -INFINITY);
}

}  // namespace
}  // namespace farspan::kernels
