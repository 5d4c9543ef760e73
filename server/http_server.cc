// SPDX-License-Identifier: Apache-2.0
#include "server/http_server.h"

#include <unistd.h>

#include <boost/asio.hpp>
#include <boost/beast.hpp>
#include <optional>
#include <utility>
#include <vector>

namespace farspan {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using asio::ip::tcp;

constexpr uint32_t kMaxHeaderBytes = 8 << 10;
constexpr std::chrono::seconds kTimeout(5);
constexpr int kMaxConnections = 64;
constexpr std::chrono::milliseconds kBackOff(10);

// One connection; owned by its pending operations.
class Session : public std::enable_shared_from_this<Session> {
 public:
  Session(tcp::socket socket, const HttpHandler* handler, int* num_sessions)
      : stream_(std::move(socket)), handler_(*handler), num_sessions_(*num_sessions) {
    ++num_sessions_;
  }
  ~Session() { --num_sessions_; }

  void Read() {
    parser_.emplace();
    parser_->header_limit(kMaxHeaderBytes);
    parser_->body_limit(0);
    stream_.expires_after(kTimeout);
    http::async_read(stream_, buffer_, *parser_,
                     [self = shared_from_this()](beast::error_code error, size_t) { self->OnRead(error); });
  }

 private:
  void OnRead(beast::error_code error) {
    if (error == http::error::header_limit) return Write(ErrorReply(431, "header too large\n"), /*keep_alive=*/false);
    if (error == http::error::body_limit) return Write(ErrorReply(413, "no body is taken\n"), /*keep_alive=*/false);
    // Beast's own category means bytes that are no HTTP; anything else, that the client left or was too slow.
    if (error && error != http::error::end_of_stream && error.category() == http::make_error_code({}).category() &&
        error != http::error::partial_message) {
      return Write(ErrorReply(400, "malformed request\n"), /*keep_alive=*/false);
    }
    if (error) return;
    const http::request<http::empty_body>& request = parser_->get();
    if (request.method() != http::verb::get && request.method() != http::verb::head) {
      return Write(ErrorReply(405, "only GET and HEAD\n"), /*keep_alive=*/false);
    }
    const absl::string_view target(request.target().data(), request.target().size());
    Write(handler_(target.substr(0, target.find('?'))), request.keep_alive());
  }

  static HttpReply ErrorReply(int status, std::string body) { return {.status = status, .body = std::move(body)}; }

  void Write(HttpReply reply, bool keep_alive) {
    const http::request<http::empty_body>& request = parser_->get();
    response_.emplace(static_cast<http::status>(reply.status), 11);
    response_->set(http::field::content_type, reply.content_type);
    response_->set(http::field::cache_control, "no-store");
    if (reply.status == 405) response_->set(http::field::allow, "GET, HEAD");
    response_->keep_alive(keep_alive);
    response_->body() = std::move(reply.body);
    response_->prepare_payload();  // a HEAD answer has the length of the body that it leaves out
    serializer_.emplace(*response_);
    stream_.expires_after(kTimeout);
    auto done = [self = shared_from_this(), keep_alive](beast::error_code error, size_t) {
      if (!error && keep_alive) return self->Read();
      beast::error_code ignored;
      self->stream_.socket().shutdown(tcp::socket::shutdown_send, ignored);
    };
    if (request.method() == http::verb::head) {
      http::async_write_header(stream_, *serializer_, std::move(done));
    } else {
      http::async_write(stream_, *serializer_, std::move(done));
    }
  }

  beast::tcp_stream stream_;
  const HttpHandler& handler_;
  int& num_sessions_;
  beast::flat_buffer buffer_{kMaxHeaderBytes * 2};
  std::optional<http::request_parser<http::empty_body>> parser_;
  std::optional<http::response<http::string_body>> response_;
  std::optional<http::response_serializer<http::string_body>> serializer_;
};

}  // namespace

// The accept loops and all connections, on one thread.
class HttpServer::Loop {
 public:
  Loop(const Listener& listener, HttpHandler handler) : handler_(std::move(handler)) {
    for (const int fd : listener.fds()) {
      sockaddr address{};
      socklen_t size = sizeof address;
      getsockname(fd, &address, &size);
      // The copy belongs to asio, the original to the listener.
      acceptors_.emplace_back(context_, address.sa_family == AF_INET6 ? tcp::v6() : tcp::v4(), dup(fd));
      retries_.emplace_back(context_);
    }
  }

  void Run() {
    for (size_t i = 0; i < acceptors_.size(); ++i) Accept(i);
    context_.run();
  }
  // Thread-safe.
  void Stop() { context_.stop(); }

 private:
  void Accept(size_t index) {
    acceptors_[index].async_accept([this, index](beast::error_code error, tcp::socket socket) {
      if (error == asio::error::operation_aborted) return;
      if (error) return AcceptLater(index);
      // Over the limit a connection is closed at once, by going out of scope.
      if (num_sessions_ < kMaxConnections) {
        std::make_shared<Session>(std::move(socket), &handler_, &num_sessions_)->Read();
      }
      Accept(index);
    });
  }

  // Out of descriptors: the port stays readable, so without a pause this would spin.
  void AcceptLater(size_t index) {
    retries_[index].expires_after(kBackOff);
    retries_[index].async_wait([this, index](beast::error_code error) {
      if (!error) Accept(index);
    });
  }

  const HttpHandler handler_;
  int num_sessions_ = 0;  // outlives the context and what it holds
  asio::io_context context_{1};
  std::vector<tcp::acceptor> acceptors_;
  std::vector<asio::steady_timer> retries_;
};

HttpServer::HttpServer(Listener listener, HttpHandler handler)
    : port_(listener.port()),
      loop_(std::make_unique<Loop>(listener, std::move(handler))),
      thread_([loop = loop_.get()]() noexcept { loop->Run(); }) {}

HttpServer::~HttpServer() {
  loop_->Stop();
  thread_.join();
}

}  // namespace farspan
