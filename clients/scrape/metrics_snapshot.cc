// SPDX-License-Identifier: Apache-2.0
#include "clients/scrape/metrics_snapshot.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace farspan {
namespace {

constexpr size_t kMaxSamples = 200'000;
constexpr size_t kMaxLabels = 64;
constexpr size_t kMaxLineBytes = size_t{64} << 10;

bool IsNameStart(char c) { return absl::ascii_isalpha(static_cast<unsigned char>(c)) || c == '_' || c == ':'; }
bool IsNamePart(char c) { return IsNameStart(c) || absl::ascii_isdigit(static_cast<unsigned char>(c)); }

// Reads one line from left to right; never beyond its end.
class LineReader {
 public:
  explicit LineReader(absl::string_view line) : rest_(line) {}

  bool AtEnd() const { return rest_.empty(); }
  void SkipBlanks() {
    while (!rest_.empty() && (rest_.front() == ' ' || rest_.front() == '\t')) rest_.remove_prefix(1);
  }
  bool Take(char c) {
    if (rest_.empty() || rest_.front() != c) return false;
    rest_.remove_prefix(1);
    return true;
  }
  std::optional<std::string> Name() {
    size_t size = 0;
    while (size < rest_.size() && (size == 0 ? IsNameStart(rest_[0]) : IsNamePart(rest_[size]))) ++size;
    if (size == 0) return std::nullopt;
    return std::string(TakeBytes(size));
  }
  // After the opening quote, up to and with the closing one.
  std::optional<std::string> QuotedRest() {
    std::string value;
    while (!rest_.empty()) {
      const char c = rest_.front();
      rest_.remove_prefix(1);
      if (c == '"') return value;
      if (c != '\\') {
        value += c;
        continue;
      }
      if (rest_.empty()) return std::nullopt;
      const char escaped = rest_.front();
      rest_.remove_prefix(1);
      if (escaped != '\\' && escaped != '"' && escaped != 'n') return std::nullopt;
      value += escaped == 'n' ? '\n' : escaped;
    }
    return std::nullopt;
  }
  std::optional<double> Number() {
    size_t size = 0;
    while (size < rest_.size() && rest_[size] != ' ' && rest_[size] != '\t') ++size;
    double value = 0;
    if (size == 0 || !absl::SimpleAtod(TakeBytes(size), &value)) return std::nullopt;
    return value;
  }

 private:
  absl::string_view TakeBytes(size_t size) {
    const absl::string_view taken = rest_.substr(0, size);
    rest_.remove_prefix(size);
    return taken;
  }

  absl::string_view rest_;
};

absl::Status ReadLabels(LineReader* line, MetricLabels* labels) {
  for (;;) {
    line->SkipBlanks();
    if (line->Take('}')) return absl::OkStatus();
    if (labels->size() == kMaxLabels) return absl::ResourceExhaustedError("a sample has more than 64 labels");
    std::optional<std::string> name = line->Name();
    if (!name) return absl::InvalidArgumentError("a label's name is expected");
    line->SkipBlanks();
    if (!line->Take('=')) return absl::InvalidArgumentError("'=' is expected after a label's name");
    line->SkipBlanks();
    if (!line->Take('"')) return absl::InvalidArgumentError("a label's value must be quoted");
    std::optional<std::string> value = line->QuotedRest();
    if (!value) return absl::InvalidArgumentError("a label's value does not end or has a bad escape");
    if (!labels->emplace(*std::move(name), *std::move(value)).second) {
      return absl::InvalidArgumentError("a label occurs twice");
    }
    line->SkipBlanks();
    if (line->Take(',')) continue;
    if (!line->Take('}')) return absl::InvalidArgumentError("',' or '}' is expected after a label");
    return absl::OkStatus();
  }
}

absl::Status ReadSample(absl::string_view text, std::string* name, MetricLabels* labels, double* value) {
  LineReader line(text);
  line.SkipBlanks();
  std::optional<std::string> read_name = line.Name();
  if (!read_name) return absl::InvalidArgumentError("a metric's name is expected");
  *name = *std::move(read_name);
  line.SkipBlanks();
  if (line.Take('{')) {
    if (absl::Status status = ReadLabels(&line, labels); !status.ok()) return status;
    line.SkipBlanks();
  }
  const std::optional<double> number = line.Number();
  if (!number) return absl::InvalidArgumentError("a number is expected");
  *value = *number;
  line.SkipBlanks();
  if (!line.AtEnd() && !line.Number()) return absl::InvalidArgumentError("only a timestamp may follow the value");
  line.SkipBlanks();
  return line.AtEnd() ? absl::OkStatus() : absl::InvalidArgumentError("nothing may follow the timestamp");
}

bool HasAll(const MetricLabels& labels, const MetricLabels& wanted) {
  for (const auto& [name, value] : wanted) {
    const auto found = labels.find(name);
    if (found == labels.end() || found->second != value) return false;
  }
  return true;
}

}  // namespace

absl::StatusOr<MetricsSnapshot> MetricsSnapshot::Parse(absl::string_view text) {
  MetricsSnapshot snapshot;
  for (size_t number = 1; !text.empty(); ++number) {
    const size_t end = std::min(text.find('\n'), text.size());
    absl::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    const auto failed = [&](const absl::Status& status) {
      return absl::Status(status.code(), absl::StrCat("line ", number, ": ", status.message()));
    };
    if (line.size() > kMaxLineBytes) return failed(absl::ResourceExhaustedError("is longer than 64 KiB"));
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    const size_t start = line.find_first_not_of(" \t");
    if (start == absl::string_view::npos || line[start] == '#') continue;
    if (snapshot.num_samples_ == kMaxSamples) return failed(absl::ResourceExhaustedError("is over 200,000 samples"));
    std::string name;
    Sample sample;
    if (absl::Status status = ReadSample(line, &name, &sample.labels, &sample.value); !status.ok()) {
      return failed(status);
    }
    snapshot.families_[std::move(name)].push_back(std::move(sample));
    ++snapshot.num_samples_;
  }
  return snapshot;
}

std::optional<double> MetricsSnapshot::Sum(absl::string_view name, const MetricLabels& labels) const {
  const auto family = families_.find(name);
  if (family == families_.end()) return std::nullopt;
  std::optional<double> sum;
  for (const Sample& sample : family->second) {
    if (HasAll(sample.labels, labels)) sum = sum.value_or(0) + sample.value;
  }
  return sum;
}

std::map<std::string, double> MetricsSnapshot::SumBy(absl::string_view name, absl::string_view by,
                                                     const MetricLabels& labels) const {
  std::map<std::string, double> sums;
  const auto family = families_.find(name);
  if (family == families_.end()) return sums;
  for (const Sample& sample : family->second) {
    const auto value = sample.labels.find(by);
    if (value != sample.labels.end() && HasAll(sample.labels, labels)) sums[value->second] += sample.value;
  }
  return sums;
}

}  // namespace farspan
