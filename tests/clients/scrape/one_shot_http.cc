// SPDX-License-Identifier: Apache-2.0
#include "tests/clients/scrape/one_shot_http.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace farspan {

OneShotHttp::OneShotHttp(std::function<std::string(int)> answer) : answer_(std::move(answer)) {
  listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  bind(listener_, reinterpret_cast<const sockaddr*>(&address), size);
  listen(listener_, 16);
  getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size);
  port_ = ntohs(address.sin_port);
  thread_ = std::thread([this]() noexcept { Serve(); });
}

OneShotHttp::~OneShotHttp() {
  shutdown(listener_, SHUT_RDWR);
  thread_.join();
  close(listener_);
}

std::string OneShotHttp::url() const { return absl::StrCat("http://127.0.0.1:", port_, "/metrics"); }

void OneShotHttp::Serve() {
  std::vector<int> silent;
  for (int number = 0;; ++number) {
    const int connection = accept(listener_, nullptr, nullptr);
    if (connection < 0) break;
    std::string request;
    char block[1024];
    while (request.find("\r\n\r\n") == std::string::npos) {
      const ssize_t size = read(connection, block, sizeof(block));
      if (size <= 0) break;
      request.append(block, static_cast<size_t>(size));
    }
    const std::string answer = answer_(number);
    for (size_t sent = 0; sent < answer.size();) {
      const ssize_t size = send(connection, answer.data() + sent, answer.size() - sent, MSG_NOSIGNAL);
      if (size <= 0) break;
      sent += static_cast<size_t>(size);
    }
    if (answer.empty()) {
      silent.push_back(connection);
    } else {
      close(connection);
    }
  }
  for (const int connection : silent) close(connection);
}

std::string HttpOk(const std::string& body) {
  return absl::StrCat("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: ", body.size(),
                      "\r\nConnection: close\r\n\r\n", body);
}

}  // namespace farspan
