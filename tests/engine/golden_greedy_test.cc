// SPDX-License-Identifier: Apache-2.0
// Greedy continuations of SmolLM2-135M-Instruct beside llama.cpp's on the same file (tests/data/reference/README.md).
// llama.cpp rounds activations to 8 bits, so it may choose a token that the model does not prefer; wherever the two
// differ, the exact reference must prefer our token or the choice must be a tie.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "tests/engine/golden_fixture.h"

namespace farspan {
namespace {

using nlohmann::json;

constexpr double kTie = 1e-2;

class GoldenGreedyTest : public GoldenTest {
 protected:
  std::vector<TokenId> Continue(const json& prompt) {
    Request request;
    request.prompt = prompt.at("token_ids").get<std::vector<TokenId>>();
    request.stop.max_tokens = static_cast<int64_t>(prompt.at("continuation").at("token_ids").size());
    v1::AttentionSpec dense;
    dense.mutable_dense();
    return Run(std::move(request), dense)->tokens();
  }
};

TEST_F(GoldenGreedyTest, DiffersFromLlamaCppOnlyAtTiesOrWhereTheReferenceDoesToo) {
  StartEngine(CpuIsa::kAuto, KvDtype::kBf16);
  const json golden = ReadGolden("llama_cpp_greedy.json");
  int equal = 0;
  int ties = 0;
  for (const json& prompt : golden.at("prompts")) {
    const std::string name = prompt.at("name");
    const json& continuation = prompt.at("continuation");
    const auto expected = continuation.at("token_ids").get<std::vector<TokenId>>();
    const std::vector<TokenId> actual = Continue(prompt);
    ASSERT_EQ(actual.size(), expected.size()) << name;
    const auto place =
        static_cast<size_t>(std::mismatch(actual.begin(), actual.end(), expected.begin()).first - actual.begin());
    if (place == expected.size()) {
      ++equal;
      continue;
    }
    const double peer_gap = continuation.at("gaps").at(place);
    const double reference_gap = continuation.at("reference_gaps").at(place);
    const bool tie = peer_gap <= kTie || std::abs(reference_gap) <= kTie;
    const bool reference_prefers_ours =
        reference_gap < 0 && continuation.at("reference_best_other_ids").at(place) == actual[place];
    ties += tie ? 1 : 0;
    std::printf("%s: first difference at token %zu: llama.cpp's gap %.4f, the reference's %.4f: %s\n", name.c_str(),
                place, peer_gap, reference_gap, tie ? "tie" : "the reference prefers our token");
    EXPECT_TRUE(tie || reference_prefers_ours) << name;
    EXPECT_TRUE(tie || !prompt.at("decided").get<bool>()) << name;
  }
  std::printf("%zu prompts: %d equal, %d ties\n", golden.at("prompts").size(), equal, ties);
  EXPECT_GE(equal + ties, 20);
}

}  // namespace
}  // namespace farspan
