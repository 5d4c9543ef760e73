// SPDX-License-Identifier: Apache-2.0
// A loopback server whose answers to HTTP requests a test writes byte by byte.
#pragma once

#include <functional>
#include <string>
#include <thread>

namespace farspan {

// Each connection is read up to the end of its request's header, answered with what the function returns, and closed;
// one at a time.
class OneShotHttp {
 public:
  // `answer` gets the number of the connection, from 0; an empty answer leaves the connection open without a word until
  // the server ends. It runs on the server's thread.
  explicit OneShotHttp(std::function<std::string(int)> answer);
  ~OneShotHttp();

  std::string url() const;

 private:
  void Serve();

  const std::function<std::string(int)> answer_;
  int listener_ = -1;
  int port_ = 0;
  std::thread thread_;
};

// A 200 answer with this body.
std::string HttpOk(const std::string& body);

}  // namespace farspan
