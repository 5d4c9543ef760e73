// SPDX-License-Identifier: Apache-2.0
#include "server/text_pool.h"

#include <utility>

namespace farspan {

TextPool::TextPool(int num_threads, size_t max_waiting_tasks) : tasks_(max_waiting_tasks) {
  for (int i = 0; i < num_threads; ++i) {
    threads_.emplace_back([this]() noexcept {
      while (std::optional<std::function<void()>> task = tasks_.Pop()) (*task)();
    });
  }
}

TextPool::~TextPool() {
  tasks_.Close();
  for (std::thread& thread : threads_) thread.join();
}

bool TextPool::TryRun(std::function<void()> task) { return tasks_.TryPush(std::move(task)); }

}  // namespace farspan
