// SPDX-License-Identifier: Apache-2.0
// The API's policies and the registered ones are the same set.
#include <gmock/gmock.h>

#include <string>
#include <vector>

#include "engine/attention/builtin_policies.h"
#include "engine/attention/registry.h"
#include "engine/base/model_shape.h"
#include "farspan/v1/attention.pb.h"

namespace farspan {
namespace {

const google::protobuf::OneofDescriptor& PolicyOneof() {
  return *v1::AttentionSpec::descriptor()->FindOneofByName("policy");
}

// Variants of the API that `registry` does not know.
std::vector<std::string> VariantsWithoutFactory(const PolicyRegistry& registry) {
  std::vector<std::string> missing;
  for (int i = 0; i < PolicyOneof().field_count(); ++i) {
    const std::string& name = PolicyOneof().field(i)->name();
    bool known = false;
    for (const PolicyRegistration& registration : registry.registrations()) known |= registration.traits.name == name;
    if (!known) missing.push_back(name);
  }
  return missing;
}

TEST(PoliciesCompleteTest, EveryVariantOfTheApiHasAFactory) {
  EXPECT_THAT(VariantsWithoutFactory(BuiltinPolicies()), ::testing::IsEmpty());
}

TEST(PoliciesCompleteTest, AVariantWithoutFactoryIsFound) {
  PolicyRegistry registry;
  registry.Register(WindowRegistration());
  EXPECT_THAT(VariantsWithoutFactory(registry), ::testing::Contains("dense"));
}

TEST(PoliciesCompleteTest, EveryFactoryMakesAPolicyOfItsNameFromDefaults) {
  const ModelShape shape{.num_layers = 2,
                         .num_heads = 4,
                         .num_kv_heads = 2,
                         .head_dim = 16,
                         .max_context_tokens = 4096,
                         .vocab_size = 100};
  const PolicyRegistry registry = BuiltinPolicies();
  for (const PolicyRegistration& registration : registry.registrations()) {
    const std::string name(registration.traits.name);
    const google::protobuf::FieldDescriptor* variant = v1::AttentionSpec::descriptor()->FindFieldByName(name);
    ASSERT_NE(variant, nullptr) << name;
    v1::AttentionSpec spec;
    spec.GetReflection()->MutableMessage(&spec, variant);
    const auto policy = registry.Create(spec, shape);
    ASSERT_TRUE(policy.ok()) << name << ": " << policy.status();
    EXPECT_EQ((*policy)->name(), name);
    EXPECT_FALSE(registration.traits.summary.empty()) << name;
  }
}

TEST(PoliciesCompleteTest, EveryPolicyButDenseNamesItsPaper) {
  const PolicyRegistry registry = BuiltinPolicies();
  for (const PolicyRegistration& registration : registry.registrations()) {
    EXPECT_EQ(registration.traits.paper.empty(), registration.traits.name == "dense") << registration.traits.name;
  }
}

}  // namespace
}  // namespace farspan
