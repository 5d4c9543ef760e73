// SPDX-License-Identifier: Apache-2.0
#include "clients/scrape/http_get.h"

#include <boost/asio.hpp>
#include <boost/beast.hpp>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace farspan {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using asio::ip::tcp;

constexpr uint32_t kMaxHeaderBytes = 16 << 10;
constexpr const char* kScheme = "http://";

absl::Status FromError(beast::error_code error) {
  if (error == http::error::body_limit) return absl::ResourceExhaustedError("the answer is too large");
  if (error == http::error::header_limit) return absl::InternalError("the answer's header is too large");
  if (error.category() == http::make_error_code({}).category()) {
    return absl::InternalError(absl::StrCat("the answer is no HTTP (", error.message(), ")"));
  }
  return absl::UnavailableError(error.message());
}

// The steps of one exchange, each started by the one before it; all on the thread that runs the context.
class Exchange {
 public:
  Exchange(const HttpUrl& url, const HttpLimits& limits)
      : url_(url), max_body_bytes_(limits.max_body_bytes), resolver_(context_), stream_(context_) {
    request_.method(http::verb::get);
    request_.target(url.path);
    request_.version(11);
    request_.set(http::field::host, absl::StrCat(url.host, ":", url.port));
    request_.set(http::field::user_agent, "farspan");
    request_.keep_alive(false);
    parser_.header_limit(kMaxHeaderBytes);
    parser_.body_limit(max_body_bytes_);
  }

  absl::StatusOr<std::string> Run(std::chrono::milliseconds timeout) {
    resolver_.async_resolve(url_.host, url_.port, [this](beast::error_code error, auto endpoints) {
      if (error) return End(error);
      stream_.async_connect(endpoints, [this](beast::error_code failure, auto) { OnConnected(failure); });
    });
    context_.run_for(timeout);
    if (!result_) return absl::DeadlineExceededError(absl::StrCat("no answer within ", timeout.count(), " ms"));
    if (*result_) return FromError(*result_);
    http::response<http::string_body>& response = parser_.get();
    if (response.result() != http::status::ok) {
      return absl::UnavailableError(absl::StrCat("the answer is HTTP status ", response.result_int()));
    }
    return std::move(response.body());
  }

 private:
  void OnConnected(beast::error_code error) {
    if (error) return End(error);
    http::async_write(stream_, request_, [this](beast::error_code failure, size_t) {
      if (failure) return End(failure);
      http::async_read_header(stream_, buffer_, parser_, [this](beast::error_code end, size_t) { OnHeader(end); });
    });
  }

  // The library's limit holds for bodies of unknown length; a Content-Length over it is let through by 1.74.
  void OnHeader(beast::error_code error) {
    if (error) return End(error);
    if (parser_.content_length().value_or(0) > max_body_bytes_) return End(http::error::body_limit);
    http::async_read(stream_, buffer_, parser_, [this](beast::error_code end, size_t) { End(end); });
  }

  void End(beast::error_code error) { result_ = error; }

  const HttpUrl url_;
  const uint64_t max_body_bytes_;
  asio::io_context context_{1};
  tcp::resolver resolver_;
  beast::tcp_stream stream_;
  http::request<http::empty_body> request_;
  http::response_parser<http::string_body> parser_;
  beast::flat_buffer buffer_{kMaxHeaderBytes * 4};
  std::optional<beast::error_code> result_;
};

absl::Status Malformed(absl::string_view url) {
  return absl::InvalidArgumentError(
      absl::StrCat("must be http://HOST:PORT/PATH, got '", std::string(url.substr(0, 256)), "'"));
}

}  // namespace

absl::StatusOr<HttpUrl> ParseHttpUrl(absl::string_view url) {
  if (!absl::StartsWith(url, kScheme)) return Malformed(url);
  absl::string_view rest = url.substr(absl::string_view(kScheme).size());
  const bool printable = rest.find_first_of(absl::string_view(" \t\r\n\0?#@", 8)) == absl::string_view::npos;
  if (!printable || rest.size() > 2048) return Malformed(url);
  const size_t slash = rest.find('/');
  HttpUrl parsed{.port = "80", .path = slash == absl::string_view::npos ? "/" : std::string(rest.substr(slash))};
  rest = rest.substr(0, slash);
  const size_t bracket = rest.rfind(']');
  const size_t colon = rest.rfind(':');
  const bool has_port = colon != absl::string_view::npos && (bracket == absl::string_view::npos || colon > bracket);
  if (has_port) {
    int port = 0;
    if (!absl::SimpleAtoi(rest.substr(colon + 1), &port) || port < 1 || port > 65535) return Malformed(url);
    parsed.port = absl::StrCat(port);
    rest = rest.substr(0, colon);
  }
  if (rest.size() > 2 && rest.front() == '[' && rest.back() == ']') {
    rest = rest.substr(1, rest.size() - 2);
  } else if (rest.find_first_of("[]:") != absl::string_view::npos) {
    return Malformed(url);
  }
  if (rest.empty()) return Malformed(url);
  parsed.host = std::string(rest);
  return parsed;
}

absl::StatusOr<std::string> HttpGet(const HttpUrl& url, const HttpLimits& limits) {
  return Exchange(url, limits).Run(limits.timeout);
}

}  // namespace farspan
