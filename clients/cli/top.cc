// SPDX-License-Identifier: Apache-2.0
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <stop_token>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "clients/cli/command.h"
#include "clients/cli/display_text.h"
#include "clients/cli/metrics_address.h"
#include "clients/cli/number_flags.h"
#include "clients/cli/top_frame.h"

namespace farspan::cli {
namespace {

constexpr const char* kEnterScreen = "\x1b[?1049h\x1b[?25l";
constexpr const char* kLeaveScreen = "\x1b[?25h\x1b[?1049l";
constexpr int kPipedColumns = 200;

using Clock = std::chrono::steady_clock;

// A terminal's second screen while it lives; nothing elsewhere. Frames overwrite each other there and follow each other
// elsewhere.
class Screen {
 public:
  Screen(Console* console, bool whole_screen) : console_(*console), whole_screen_(whole_screen) {
    if (whole_screen_) console_.out << kEnterScreen;
  }
  ~Screen() {
    if (whole_screen_) console_.out << kLeaveScreen;
    console_.out.flush();
  }
  Screen(const Screen&) = delete;
  Screen& operator=(const Screen&) = delete;

  // False when standard output takes no more.
  bool Show(const std::string& frame) {
    if (!whole_screen_) {
      console_.out << frame;
    } else {
      std::string drawn = "\x1b[H";
      for (const absl::string_view line : absl::StrSplit(frame, '\n')) {
        absl::StrAppend(&drawn, ClipToWidth(line, console_.columns), "\x1b[K\n");
      }
      console_.out << drawn << "\x1b[J";
    }
    return static_cast<bool>(console_.out.flush());
  }

 private:
  Console& console_;
  const bool whole_screen_;
};

class TopCommand final : public Command {
 public:
  std::string name() const override { return "top"; }
  std::string summary() const override { return "watch a server: queue, batch, pages and KV traffic by policy"; }
  std::vector<std::string> examples() const override {
    return {"farspan top", "farspan top --interval 5 --server model-host:50051", "farspan top --once"};
  }

  void AddFlags(FlagSet* flags) override {
    AddMetricsUrlFlag("The server's metrics", &metrics_url_, flags);
    AddNumberFlag("interval", "SECONDS", "Time between two readings", {.minimum = 0.01, .maximum = 3600}, &interval_,
                  flags);
    flags->AddSwitch("once", "Reads twice, prints one picture of the time between and ends.", &once_);
    connection_.AddTo(flags);
  }

  Outcome Run(Console* console) override {
    const std::string url = metrics_url_.value_or(DefaultMetricsUrl(connection_.Target(*console)));
    if (url.empty()) return {ExitCode::kUsage, "--metrics-url: must be given where the server is a unix socket"};
    const Interrupt::Action action(&console->interrupt);
    absl::StatusOr<MetricsSnapshot> earlier = ScrapeMetrics(url);
    if (!earlier.ok()) return {ExitCode::kUnavailable, std::string(earlier.status().message())};
    return Watch(url, *std::move(earlier), action, console);
  }

 private:
  Outcome Watch(const std::string& url, MetricsSnapshot earlier, const Interrupt::Action& action,
                Console* console) const {
    Screen screen(console, console->out_is_terminal && !once_);
    const int columns = console->out_is_terminal ? console->columns : kPipedColumns;
    const std::string title = absl::StrCat("farspan top  ", EscapeControls(url, Controls::kEscapeAll), "  ");
    if (!once_ && !screen.Show(absl::StrCat(title, "the first picture comes in ", interval_, " s\n")))
      return Unwritable();
    Clock::time_point earlier_time = Clock::now();
    while (Pause(action.token())) {
      absl::StatusOr<MetricsSnapshot> later = ScrapeMetrics(url);
      const Clock::time_point now = Clock::now();
      const std::string time = absl::FormatTime("%H:%M:%S", absl::Now(), absl::LocalTimeZone());
      if (later.ok()) {
        const double seconds = std::chrono::duration<double>(now - earlier_time).count();
        const std::string frame = TopFrame({.earlier = earlier, .later = *later, .seconds = seconds}, columns);
        if (!screen.Show(absl::StrCat(title, time, "\n\n", frame, once_ ? "" : "\n"))) return Unwritable();
        earlier = *std::move(later);
        earlier_time = now;
        if (once_) return {};
        continue;
      }
      const std::string why = EscapeControls(later.status().message(), Controls::kEscapeAll);
      if (once_) return {ExitCode::kUnavailable, why};
      if (!screen.Show(absl::StrCat(title, time, "\n\n", why, "\n"))) return Unwritable();
    }
    return {ExitCode::kInterrupted, ""};
  }

  // False when interrupted meanwhile.
  bool Pause(const std::stop_token& stop) const {
    std::mutex mutex;
    std::condition_variable_any stopped;
    std::unique_lock<std::mutex> lock(mutex);
    stopped.wait_for(lock, stop, std::chrono::duration<double>(interval_), [] { return false; });
    return !stop.stop_requested();
  }

  static Outcome Unwritable() { return {ExitCode::kOutputFailed, "the output cannot be written"}; }

  Connection connection_;
  std::optional<std::string> metrics_url_;
  double interval_ = 1;
  bool once_ = false;
};

}  // namespace

std::unique_ptr<Command> NewTopCommand() { return std::make_unique<TopCommand>(); }

}  // namespace farspan::cli
