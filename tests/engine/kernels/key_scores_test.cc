// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>

#include "tests/engine/kernels/key_score_scene.h"

namespace farspan::kernels {
namespace {

TEST(KeyScoresTest, AreTheFoldedLogitsOrProbabilitiesOfVisibleKeys) {
  Random random;
  for (int round = 0; round < 40; ++round) {
    const KeyScoreScene scene(&random);
    const std::vector<double> expected = scene.Expected();
    for (const KernelTable* level : KernelLevels()) {
      std::vector<float> scores(scene.num_scores(), kNan);
      const KeyScoresArgs args = scene.Args(scores.data());
      RunShuffled(level->key_scores, args, &random);
      for (size_t i = 0; i < scores.size(); ++i) {
        if (std::isnan(expected[i]) || std::isinf(expected[i])) {
          ASSERT_TRUE(std::isnan(expected[i]) ? std::isnan(scores[i]) : scores[i] == expected[i])
              << "at " << i << ": " << scores[i] << ", expected " << expected[i];
        } else {
          ASSERT_NEAR(scores[i], expected[i], 3e-5 * (1 + std::fabs(expected[i]))) << "at " << i;
        }
      }
    }
  }
}

}  // namespace
}  // namespace farspan::kernels
