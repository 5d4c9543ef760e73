// SPDX-License-Identifier: Apache-2.0
// A small HTTP/1.1 server for the admin port: GET and HEAD of a few paths, short deadlines, nothing else.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/listener.h"

namespace farspan {

struct HttpReply {
  int status = 200;
  std::string content_type = "text/plain; charset=utf-8";
  std::string body;
};

// Called on the server's thread with the path, without its query. Must be quick.
using HttpHandler = std::function<HttpReply(absl::string_view path)>;

// Owns its thread. Header at most 8 KiB, no body, 5 s for a request and as much for its answer, 64 connections.
class HttpServer {
 public:
  HttpServer(Listener listener, HttpHandler handler);
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  int64_t port() const { return port_; }

 private:
  class Loop;

  const int64_t port_;
  std::unique_ptr<Loop> loop_;
  std::thread thread_;
};

}  // namespace farspan
