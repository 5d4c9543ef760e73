// SPDX-License-Identifier: Apache-2.0
// The field rules of the API are the one source of validation, help and reference: none may be missing.
#include <gmock/gmock.h>
#include <google/protobuf/descriptor.h>
#include <gtest/gtest.h>

#include <set>

#include "absl/strings/numbers.h"
#include "farspan/v1/comparison.pb.h"
#include "farspan/v1/inference.pb.h"
#include "farspan/v1/model.pb.h"
#include "farspan/v1/options.pb.h"

namespace farspan {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;

// Every message that a request can hold.
std::set<const Descriptor*> RequestMessages() {
  std::vector<const Descriptor*> open;
  for (const auto* file : {v1::GenerateRequest::descriptor()->file(), v1::ComparePoliciesRequest::descriptor()->file(),
                           v1::GetServerInfoRequest::descriptor()->file()}) {
    for (int s = 0; s < file->service_count(); ++s) {
      for (int m = 0; m < file->service(s)->method_count(); ++m) {
        open.push_back(file->service(s)->method(m)->input_type());
      }
    }
  }
  std::set<const Descriptor*> seen;
  while (!open.empty()) {
    const Descriptor* message = open.back();
    open.pop_back();
    if (!seen.insert(message).second) continue;
    for (int i = 0; i < message->field_count(); ++i) {
      const Descriptor* nested = message->field(i)->message_type();
      if (nested != nullptr && nested->file()->package() == message->file()->package()) open.push_back(nested);
    }
  }
  return seen;
}

std::vector<const FieldDescriptor*> RequestFields() {
  std::vector<const FieldDescriptor*> fields;
  for (const Descriptor* message : RequestMessages()) {
    for (int i = 0; i < message->field_count(); ++i) fields.push_back(message->field(i));
  }
  return fields;
}

const v1::FieldRule& RuleOf(const FieldDescriptor* field) { return field->options().GetExtension(v1::rule); }

TEST(RequestRulesTest, AllServicesAreCovered) {
  std::set<std::string> names;
  for (const Descriptor* message : RequestMessages()) names.insert(message->name());
  EXPECT_THAT(names, ::testing::IsSupersetOf({"GenerateRequest", "TokenizeRequest", "DetokenizeRequest",
                                              "ComparePoliciesRequest", "GetServerInfoRequest",
                                              "ListAttentionPoliciesRequest", "Sampling", "WindowAttention"}));
}

TEST(RequestRulesTest, EveryRequestFieldIsDocumentedAsASentence) {
  for (const FieldDescriptor* field : RequestFields()) {
    const std::string& doc = RuleOf(field).doc();
    ASSERT_FALSE(doc.empty()) << field->full_name();
    EXPECT_EQ(doc.back(), '.') << field->full_name();
  }
}

TEST(RequestRulesTest, TextsOfRequestsAreBytes) {
  for (const FieldDescriptor* field : RequestFields()) {
    EXPECT_NE(field->type(), FieldDescriptor::TYPE_STRING)
        << field->full_name() << ": the library answers malformed UTF-8 in a string without naming the field";
  }
}

TEST(RequestRulesTest, NumericDefaultsLieWithinTheirBounds) {
  for (const FieldDescriptor* field : RequestFields()) {
    const v1::FieldRule& rule = RuleOf(field);
    const bool numeric = field->cpp_type() == FieldDescriptor::CPPTYPE_INT32 ||
                         field->cpp_type() == FieldDescriptor::CPPTYPE_INT64 ||
                         field->cpp_type() == FieldDescriptor::CPPTYPE_DOUBLE;
    if (!numeric || rule.default_value().empty()) continue;
    double value = 0;
    ASSERT_TRUE(absl::SimpleAtod(rule.default_value(), &value)) << field->full_name();
    if (rule.has_minimum()) {
      EXPECT_TRUE(rule.exclusive_minimum() ? value > rule.minimum() : value >= rule.minimum()) << field->full_name();
    }
    if (rule.has_maximum()) {
      EXPECT_LE(value, rule.maximum()) << field->full_name();
    }
  }
}

TEST(RequestRulesTest, EnumDefaultsAreNamesOfTheEnum) {
  for (const FieldDescriptor* field : RequestFields()) {
    if (field->enum_type() == nullptr || RuleOf(field).default_value().empty()) continue;
    EXPECT_NE(field->enum_type()->FindValueByName(RuleOf(field).default_value()), nullptr) << field->full_name();
  }
}

}  // namespace
}  // namespace farspan
