// SPDX-License-Identifier: Apache-2.0
#include "clients/cli/metrics_address.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "clients/scrape/http_get.h"

namespace farspan::cli {
namespace {

constexpr const char* kMetricsPort = "8002";

absl::StatusOr<MetricsSnapshot> Read(const std::string& url) {
  const absl::StatusOr<HttpUrl> parsed = ParseHttpUrl(url);
  if (!parsed.ok()) return parsed.status();
  const absl::StatusOr<std::string> text = HttpGet(*parsed);
  if (!text.ok()) return text.status();
  return MetricsSnapshot::Parse(*text);
}

}  // namespace

void AddMetricsUrlFlag(const std::string& doc, std::optional<std::string>* url, FlagSet* flags) {
  flags->Add({.name = "metrics-url",
              .value_name = "URL",
              .doc = absl::StrCat(doc, " [default http://HOST:", kMetricsPort, "/metrics with the server's host]."),
              .set = [url](const std::string& text) {
                *url = text;
                return ParseHttpUrl(text).status();
              }});
}

std::string DefaultMetricsUrl(const std::string& target) {
  if (absl::StartsWith(target, "unix:")) return "";
  return absl::StrCat("http://", target.substr(0, target.rfind(':')), ":", kMetricsPort, "/metrics");
}

absl::StatusOr<MetricsSnapshot> ScrapeMetrics(const std::string& url) {
  absl::StatusOr<MetricsSnapshot> snapshot = Read(url);
  if (snapshot.ok()) return snapshot;
  return absl::Status(snapshot.status().code(),
                      absl::StrCat("cannot read the server's metrics at ", url, ": ", snapshot.status().message()));
}

}  // namespace farspan::cli
