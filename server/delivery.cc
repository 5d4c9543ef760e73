// SPDX-License-Identifier: Apache-2.0
#include "server/delivery.h"

#include <utility>

namespace farspan {

DeliverySink::DeliverySink(Delivery* delivery, std::unique_ptr<GenerationStream> stream)
    : delivery_(delivery), stream_(std::move(stream)) {}

void DeliverySink::OnEvent(OutputEvent event) {
  {
    MutexLock lock(&mutex_);
    events_.push_back(std::move(event));
    if (std::exchange(scheduled_, true)) return;
  }
  delivery_->Schedule(shared_from_this());
}

void DeliverySink::SetHandle(std::shared_ptr<RequestHandle> handle) {
  bool cancelled = false;
  std::vector<int> stopped;
  {
    MutexLock lock(&mutex_);
    handle_ = handle;
    cancelled = cancelled_;
    stopped = std::exchange(stopped_samples_, {});
  }
  for (const int sample : stopped) handle->StopSample(sample);
  if (cancelled) handle->Cancel();
}

void DeliverySink::Cancel() {
  std::shared_ptr<RequestHandle> handle;
  {
    MutexLock lock(&mutex_);
    cancelled_ = true;
    handle = handle_;
  }
  if (handle) handle->Cancel();
}

void DeliverySink::StopSample(int sample) {
  std::shared_ptr<RequestHandle> handle;
  {
    MutexLock lock(&mutex_);
    if (!handle_ && !cancelled_) stopped_samples_.push_back(sample);
    handle = handle_;
  }
  if (handle) handle->StopSample(sample);
}

void DeliverySink::Deliver() {
  std::vector<OutputEvent> events;
  {
    MutexLock lock(&mutex_);
    events = std::exchange(events_, {});
    scheduled_ = false;
  }
  for (const OutputEvent& event : events) {
    stream_->OnEvent(event, [this](int sample) { StopSample(sample); });
  }
}

Delivery::Delivery(std::function<void()> on_tick)
    : on_tick_(std::move(on_tick)), thread_([this]() noexcept { Run(); }) {}

Delivery::~Delivery() {
  {
    MutexLock lock(&mutex_);
    stopping_ = true;
  }
  changed_.NotifyAll();
  thread_.join();
}

void Delivery::Schedule(std::shared_ptr<DeliverySink> sink) {
  {
    MutexLock lock(&mutex_);
    ready_.push_back(std::move(sink));
  }
  changed_.NotifyOne();
}

void Delivery::Run() {
  constexpr std::chrono::seconds kTick(1);
  SteadyTime next_tick = std::chrono::steady_clock::now() + kTick;
  while (true) {
    std::shared_ptr<DeliverySink> sink;
    {
      MutexLock lock(&mutex_);
      while (ready_.empty() && !stopping_ && std::chrono::steady_clock::now() < next_tick) {
        changed_.WaitUntil(&mutex_, next_tick);
      }
      if (!ready_.empty()) {
        sink = std::move(ready_.front());
        ready_.pop_front();
      } else if (stopping_) {
        return;
      }
    }
    if (sink) sink->Deliver();
    if (std::chrono::steady_clock::now() >= next_tick) {
      on_tick_();
      next_tick = std::chrono::steady_clock::now() + kTick;
    }
  }
}

}  // namespace farspan
