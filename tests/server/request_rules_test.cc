// SPDX-License-Identifier: Apache-2.0
// Every rule that a field of a request declares is tried at and beyond its bounds, by reflection: a field that is added
// later is tried without a word here.
#include "server/request_rules.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <set>

#include "farspan/v1/comparison.pb.h"
#include "farspan/v1/inference.pb.h"
#include "farspan/v1/options.pb.h"

namespace farspan {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using ::testing::Contains;
using ::testing::Field;
using ::testing::IsEmpty;
using ::testing::Not;

// A message of the field's type with the field set by `set`, and the violations of that field alone.
std::vector<FieldViolation> Try(const FieldDescriptor& field, const std::function<void(Message*)>& set) {
  std::unique_ptr<Message> message(
      google::protobuf::MessageFactory::generated_factory()->GetPrototype(field.containing_type())->New());
  set(message.get());
  std::vector<FieldViolation> violations = CheckRequest(*message);
  std::erase_if(violations, [&](const FieldViolation& violation) {
    return violation.field.substr(0, violation.field.find('[')) != field.name();
  });
  return violations;
}

void SetNumber(const FieldDescriptor& field, double value, Message* message) {
  const auto* reflection = message->GetReflection();
  const bool is_whole = field.cpp_type() != FieldDescriptor::CPPTYPE_DOUBLE;
  const auto whole = is_whole ? static_cast<int64_t>(value) : 0;
  const bool repeated = field.is_repeated();
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      repeated ? reflection->AddInt32(message, &field, static_cast<int32_t>(whole))
               : reflection->SetInt32(message, &field, static_cast<int32_t>(whole));
      return;
    case FieldDescriptor::CPPTYPE_INT64:
      repeated ? reflection->AddInt64(message, &field, whole) : reflection->SetInt64(message, &field, whole);
      return;
    case FieldDescriptor::CPPTYPE_DOUBLE:
      repeated ? reflection->AddDouble(message, &field, value) : reflection->SetDouble(message, &field, value);
      return;
    case FieldDescriptor::CPPTYPE_MESSAGE: {
      auto* duration = static_cast<google::protobuf::Duration*>(reflection->MutableMessage(message, &field));
      duration->set_seconds(static_cast<int64_t>(value));
      duration->set_nanos(static_cast<int32_t>(std::lround((value - std::trunc(value)) * 1e9)));
      return;
    }
    default:
      FAIL() << "no number: " << field.full_name();
  }
}

bool Takes(const FieldDescriptor& field, double value) {
  return Try(field, [&](Message* message) { SetNumber(field, value, message); }).empty();
}

bool IsWhole(const FieldDescriptor& field) {
  return field.cpp_type() == FieldDescriptor::CPPTYPE_INT32 || field.cpp_type() == FieldDescriptor::CPPTYPE_INT64;
}

bool Representable(const FieldDescriptor& field, double value) {
  return field.cpp_type() != FieldDescriptor::CPPTYPE_INT32 ||
         (value >= std::numeric_limits<int32_t>::min() && value <= std::numeric_limits<int32_t>::max());
}

void TryBounds(const FieldDescriptor& field, const v1::FieldRule& rule) {
  const double step = IsWhole(field) ? 1 : 1e-6;
  if (rule.has_minimum()) {
    EXPECT_EQ(Takes(field, rule.minimum()), !rule.exclusive_minimum()) << field.full_name();
    EXPECT_TRUE(Takes(field, rule.minimum() + step)) << field.full_name();
    if (Representable(field, rule.minimum() - step)) {
      EXPECT_FALSE(Takes(field, rule.minimum() - step)) << field.full_name();
    }
  }
  if (rule.has_maximum()) {
    EXPECT_TRUE(Takes(field, rule.maximum())) << field.full_name();
    EXPECT_TRUE(Takes(field, rule.maximum() - step)) << field.full_name();
    if (Representable(field, rule.maximum() + step)) {
      EXPECT_FALSE(Takes(field, rule.maximum() + step)) << field.full_name();
    }
  }
  if (field.cpp_type() == FieldDescriptor::CPPTYPE_DOUBLE) {
    for (const double wrong : {std::nan(""), HUGE_VAL, -HUGE_VAL}) {
      EXPECT_FALSE(Takes(field, wrong)) << field.full_name() << " " << wrong;
    }
  }
}

void TryText(const FieldDescriptor& field, const v1::FieldRule& rule) {
  const auto takes = [&](const std::string& text) {
    return Try(field,
               [&](Message* message) {
                 const auto* reflection = message->GetReflection();
                 field.is_repeated() ? reflection->AddString(message, &field, text)
                                     : reflection->SetString(message, &field, text);
               })
        .empty();
  };
  EXPECT_TRUE(takes("text")) << field.full_name();
  EXPECT_TRUE(takes("a\0b \xEF\xBB\xBF \xF0\x9F\x98\x80")) << field.full_name();
  for (const char* wrong : {"ab\xFF", "\xC3", "\xED\xA0\x80", "\xC0\x80", "\xF5\x80\x80\x80"}) {
    EXPECT_FALSE(takes(wrong)) << field.full_name();
  }
  if (rule.has_min_bytes()) {
    EXPECT_FALSE(takes(std::string(static_cast<size_t>(rule.min_bytes() - 1), 'x'))) << field.full_name();
  }
  if (rule.has_max_bytes()) {
    EXPECT_TRUE(takes(std::string(static_cast<size_t>(rule.max_bytes()), 'x'))) << field.full_name();
    EXPECT_FALSE(takes(std::string(static_cast<size_t>(rule.max_bytes() + 1), 'x'))) << field.full_name();
  }
}

void TryItems(const FieldDescriptor& field, const v1::FieldRule& rule) {
  const auto takes = [&](int64_t count) {
    std::vector<FieldViolation> violations = Try(field, [&](Message* message) {
      const auto* reflection = message->GetReflection();
      for (int64_t i = 0; i < count; ++i) {
        if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
          reflection->AddMessage(message, &field);
        } else if (field.cpp_type() == FieldDescriptor::CPPTYPE_STRING) {
          reflection->AddString(message, &field, "x");
        } else {
          SetNumber(field, 1, message);
        }
      }
    });
    // Violations inside the elements are another matter.
    return !std::any_of(violations.begin(), violations.end(),
                        [&](const FieldViolation& violation) { return violation.field == field.name(); });
  };
  EXPECT_TRUE(takes(rule.max_items())) << field.full_name();
  EXPECT_FALSE(takes(rule.max_items() + 1)) << field.full_name();
}

// Calls `visit` for each field below a message type, each message type once.
void ForEachField(const Descriptor& type, std::set<std::string>* seen,
                  const std::function<void(const FieldDescriptor&)>& visit) {
  if (!seen->insert(type.full_name()).second) return;
  for (int i = 0; i < type.field_count(); ++i) {
    visit(*type.field(i));
    const Descriptor* const nested = type.field(i)->message_type();
    if (nested != nullptr && nested->file()->package() == type.file()->package()) ForEachField(*nested, seen, visit);
  }
}

TEST(RequestRulesTest, EveryDeclaredRuleHoldsAtItsBounds) {
  int num_tried = 0;
  std::set<std::string> seen;
  const auto visit = [&](const FieldDescriptor& field) {
    const v1::FieldRule& rule = field.options().GetExtension(v1::rule);
    EXPECT_FALSE(rule.doc().empty()) << field.full_name() << " has no rule";
    ++num_tried;
    if (rule.has_max_items()) TryItems(field, rule);
    if (field.type() == FieldDescriptor::TYPE_BYTES) TryText(field, rule);
    if (rule.has_minimum() || rule.has_maximum()) TryBounds(field, rule);
  };
  for (const Descriptor* type : {v1::GenerateRequest::descriptor(), v1::ComparePoliciesRequest::descriptor(),
                                 v1::TokenizeRequest::descriptor(), v1::DetokenizeRequest::descriptor()}) {
    ForEachField(*type, &seen, visit);
  }
  EXPECT_GT(num_tried, 30);
}

TEST(RequestRulesTest, UnknownEnumValueIsNamedWithItsNumber) {
  v1::WindowAttention window;
  window.set_positions(static_cast<v1::WindowAttention::Positions>(99));
  const std::vector<FieldViolation> violations = CheckRequest(window);
  ASSERT_EQ(violations.size(), 1u);
  EXPECT_THAT(Sentence(violations[0]), ::testing::StartsWith("positions: unknown value 99"));
}

TEST(RequestRulesTest, OneofWithoutAValueIsRefusedWithWhatIsKnown) {
  v1::GenerateRequest request;
  request.mutable_spec()->mutable_prompt();
  request.mutable_attention();
  const std::vector<FieldViolation> violations = CheckRequest(request);
  ASSERT_EQ(violations.size(), 2u);
  EXPECT_THAT(Sentence(violations[0]), ::testing::StartsWith("spec.prompt: must hold one of text, tokens, chat"));
  EXPECT_THAT(Sentence(violations[1]), ::testing::StartsWith("attention: must hold one of dense, window"));
}

TEST(RequestRulesTest, InvalidUtf8IsNamedWithItsByte) {
  v1::GenerateRequest request;
  request.mutable_spec()->mutable_prompt()->set_text("abc\xFF");
  EXPECT_EQ(Sentence(CheckRequest(request).at(0)), "spec.prompt.text: invalid UTF-8 at byte 3");
}

TEST(RequestRulesTest, DurationsAreCheckedInSecondsAndMustBeWellFormed) {
  v1::GenerationSpec spec;
  spec.mutable_max_queue_duration()->set_nanos(1);
  EXPECT_THAT(CheckRequest(spec), IsEmpty());
  spec.mutable_max_queue_duration()->set_nanos(0);
  EXPECT_EQ(Sentence(CheckRequest(spec).at(0)), "max_queue_duration: must be greater than 0 seconds, got 0");
  spec.mutable_max_queue_duration()->set_seconds(86400);
  EXPECT_THAT(CheckRequest(spec), IsEmpty());
  spec.mutable_max_queue_duration()->set_nanos(500'000'000);
  EXPECT_EQ(Sentence(CheckRequest(spec).at(0)), "max_queue_duration: must be at most 86400 seconds, got 86400.5");
  spec.mutable_max_queue_duration()->set_nanos(-1);
  EXPECT_THAT(Sentence(CheckRequest(spec).at(0)), ::testing::EndsWith("got 86400 seconds and -1 nanos"));
  spec.mutable_max_queue_duration()->set_seconds(1);
  spec.mutable_max_queue_duration()->set_nanos(1'000'000'000);
  EXPECT_EQ(CheckRequest(spec).size(), 1u);
}

TEST(RequestRulesTest, UnknownFieldsAreNoViolation) {
  v1::GenerateRequest request;
  request.mutable_spec()->mutable_prompt()->set_text("x");
  request.GetReflection()->MutableUnknownFields(&request)->AddVarint(4242, 1);
  EXPECT_THAT(CheckRequest(request), IsEmpty());
}

TEST(RequestRulesTest, ReportOfManyMistakesStaysSmall) {
  v1::DetokenizeRequest request;
  for (int i = 0; i < 100'000; ++i) request.add_token_ids(-1);
  EXPECT_LE(CheckRequest(request).size(), kMaxFieldViolations);
}

TEST(RequestRulesTest, AOneofWhoseMemberHasADefaultMayBeLeftEmpty) {
  v1::AttentionSpec spec;
  spec.mutable_quest();
  EXPECT_TRUE(CheckRequest(spec).empty());
  spec.Clear();
  EXPECT_FALSE(CheckRequest(spec).empty());
}

}  // namespace
}  // namespace farspan
