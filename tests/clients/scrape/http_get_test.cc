// SPDX-License-Identifier: Apache-2.0
#include "clients/scrape/http_get.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "tests/clients/scrape/one_shot_http.h"

namespace farspan {
namespace {

using ::testing::HasSubstr;

absl::StatusOr<std::string> Get(const std::string& answer, const HttpLimits& limits = {}) {
  const OneShotHttp server([&](int) { return answer; });
  return HttpGet(*ParseHttpUrl(server.url()), limits);
}

TEST(HttpGetTest, ParsesUrls) {
  const absl::StatusOr<HttpUrl> url = ParseHttpUrl("http://host:8002/metrics");
  ASSERT_TRUE(url.ok());
  EXPECT_EQ(url->host, "host");
  EXPECT_EQ(url->port, "8002");
  EXPECT_EQ(url->path, "/metrics");
  EXPECT_EQ(ParseHttpUrl("http://host")->path, "/");
  EXPECT_EQ(ParseHttpUrl("http://host")->port, "80");
  EXPECT_EQ(ParseHttpUrl("http://[::1]:9/x")->host, "::1");
  EXPECT_EQ(ParseHttpUrl("http://[::1]/x")->port, "80");
  for (const char* bad :
       {"", "host:80", "https://host/", "http://", "http://:80/", "http://host:0/", "http://host:70000",
        "http://host:x/", "http://::1/", "http://a b/", "http://host/\r\nX: y", "http://[]/", "http://user@host/"}) {
    EXPECT_EQ(ParseHttpUrl(bad).status().code(), absl::StatusCode::kInvalidArgument) << bad;
  }
}

TEST(HttpGetTest, ReturnsTheBody) {
  const absl::StatusOr<std::string> body = Get(HttpOk("a 1\n"));
  ASSERT_TRUE(body.ok()) << body.status();
  EXPECT_EQ(*body, "a 1\n");
  EXPECT_EQ(*Get("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nb 2\r\n0\r\n\r\n"), "b 2");
  EXPECT_EQ(*Get("HTTP/1.0 200 OK\r\n\r\nup to the end"), "up to the end");
}

TEST(HttpGetTest, AnythingElseIsAnErrorWithItsCause) {
  EXPECT_THAT(std::string(Get("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").status().message()),
              HasSubstr("HTTP status 404"));
  EXPECT_EQ(Get("SSH-2.0-OpenSSH\r\n\r\n").status().code(), absl::StatusCode::kInternal);
  EXPECT_EQ(Get("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort").status().code(), absl::StatusCode::kInternal);
  EXPECT_EQ(Get(absl::StrCat("HTTP/1.1 200 OK\r\nX: ", std::string(20'000, 'x'), "\r\n\r\n")).status().code(),
            absl::StatusCode::kInternal);
}

TEST(HttpGetTest, RefusedConnectionsAreUnavailable) {
  std::string url;
  {
    const OneShotHttp server([](int) { return std::string(); });
    url = server.url();
  }
  const absl::Status status = HttpGet(*ParseHttpUrl(url)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(status.message(), "Connection refused");
}

TEST(HttpGetTest, IsBoundedInSizeAndTime) {
  const std::string body(5000, 'x');
  for (const std::string& answer :
       {HttpOk(body), absl::StrCat("HTTP/1.0 200 OK\r\n\r\n", body),
        absl::StrCat("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1388\r\n", body, "\r\n0\r\n\r\n")}) {
    EXPECT_EQ(Get(answer, {.max_body_bytes = 4999}).status().code(), absl::StatusCode::kResourceExhausted);
    EXPECT_TRUE(Get(answer, {.max_body_bytes = 5000}).ok());
  }
  EXPECT_EQ(Get("", {.timeout = std::chrono::milliseconds(20)}).status().code(), absl::StatusCode::kDeadlineExceeded);
}

}  // namespace
}  // namespace farspan
