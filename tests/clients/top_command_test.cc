// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <latch>
#include <thread>

#include "absl/strings/str_cat.h"
#include "clients/cli/top_frame.h"
#include "tests/clients/cli_run.h"
#include "tests/clients/fake_server.h"
#include "tests/clients/scrape/one_shot_http.h"

namespace farspan::cli {
namespace {

using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

std::string Metrics(int running, int generated) {
  return absl::StrCat("farspan_requests_running{attention_policy=\"dense\"} ", running,
                      "\nfarspan_requests_waiting{attention_policy=\"dense\"} 3\n"
                      "farspan_generation_tokens_total{attention_policy=\"dense\"} ",
                      generated, "\n");
}

std::string Frame(const std::string& earlier, const std::string& later, double seconds, int columns = 200) {
  return TopFrame(
      {.earlier = *MetricsSnapshot::Parse(earlier), .later = *MetricsSnapshot::Parse(later), .seconds = seconds},
      columns);
}

TEST(TopFrameTest, ShowsGaugesRatesAndMeans) {
  const std::string earlier = R"(
farspan_generation_tokens_total{attention_policy="dense"} 100
farspan_time_to_first_token_seconds_sum{attention_policy="dense",context_band="le4k"} 1
farspan_time_to_first_token_seconds_count{attention_policy="dense",context_band="le4k"} 10
)";
  const std::string later = R"(
farspan_requests_running{attention_policy="dense"} 7
farspan_requests_waiting{attention_policy="dense"} 2
farspan_requests_running{attention_policy="window"} 1
farspan_generation_tokens_total{attention_policy="dense"} 300
farspan_time_to_first_token_seconds_sum{attention_policy="dense",context_band="le4k"} 2
farspan_time_to_first_token_seconds_count{attention_policy="dense",context_band="le4k"} 14
farspan_kv_read_bytes_total{attention_policy="dense",phase="decode"} 1048576
farspan_kv_read_bytes_dense_total{attention_policy="dense",phase="decode"} 4194304
farspan_kv_pages{state="used"} 30
farspan_kv_pages{state="cached"} 30
farspan_kv_pages{state="free"} 60
farspan_prefix_cache_hit_tokens_total{attention_policy="dense"} 25
farspan_prefix_cache_queried_tokens_total{attention_policy="dense"} 100
)";
  EXPECT_EQ(Frame(earlier, later, 2),
            "requests   8 running, 2 waiting, - ended/s, - refused/s\n"
            "tokens/s   - prompt computed, - prompt cached, 100 generated\n"
            "steps      - /s, - requests and - policies a step, - each\n"
            "queue      - wait of a request, - preemptions/s, 25 % of prompt tokens found in the prefix cache\n"
            "KV pages   30 used, 30 cached, 60 free  [########++++++++..............]\n"
            "\n"
            "policy  running  waiting  tok/s    TTFT  ITL  queue  KV held  of tokens    KV read  of dense  preempt/s  "
            "prefix hits\n"
            "------  -------  -------  -----  ------  ---  -----  -------  ---------  ---------  --------  ---------  "
            "-----------\n"
            "dense         7        2    100  250 ms    -      -        -          -  512 KiB/s      25 %          -  "
            "       25 %\n"
            "window        1        -      -       -    -      -        -          -          -         -          -  "
            "          -\n");
}

TEST(TopFrameTest, ANarrowTerminalGetsTheTableOnItsSide) {
  EXPECT_THAT(Frame("", Metrics(1, 1), 1, 60), HasSubstr("\npolicy       dense\n"));
}

TEST(TopFrameTest, ARestartedServerHasNoNegativeRates) {
  EXPECT_THAT(Frame(Metrics(1, 1000), Metrics(1, 50), 1), HasSubstr(" 50 generated"));
}

TEST(TopFrameTest, HostileValuesAndNamesAreShownHarmlessly) {
  const std::string frame = Frame("",
                                  "farspan_requests_running{attention_policy=\"\x1b[2J\\n\"} NaN\n"
                                  "farspan_requests_waiting +Inf\nfarspan_kv_pages{state=\"used\"} 1e300\n"
                                  "farspan_kv_pages{state=\"free\"} -5\n",
                                  0);
  EXPECT_THAT(frame, AllOf(HasSubstr("- running, - waiting"), HasSubstr("\\x1b[2J"), Not(HasSubstr("\x1b"))));
}

TEST(TopFrameTest, AnotherProgramsMetricsAreSaidToBe) {
  EXPECT_THAT(Frame("", "up 1\n", 1), HasSubstr("is this a Farspan server?"));
}

TEST(TopCommandTest, OnceReadsTwiceAndPrintsOnePlainPicture) {
  const OneShotHttp metrics([](int number) { return HttpOk(Metrics(number, number * 100)); });
  CliRun cli;
  cli.console.out_is_terminal = true;
  const CliResult result = cli.Run({"top", "--once", "--interval", "0.01", "--metrics-url", metrics.url()});
  EXPECT_EQ(result.code, ExitCode::kOk) << result.err;
  EXPECT_THAT(result.out, AllOf(StartsWith("farspan top  http://127.0.0.1:"), HasSubstr("1 running, 3 waiting"),
                                Not(HasSubstr("\x1b"))));
}

// Runs until the server has answered `scrapes` times, then Ctrl-C.
CliResult TopUntil(int scrapes, bool terminal, const std::function<std::string(int)>& answer) {
  CliRun cli;
  cli.console.out_is_terminal = terminal;
  std::latch answered(scrapes);
  const OneShotHttp metrics([&](int number) {
    if (number < scrapes) answered.count_down();
    return answer(number);
  });
  std::thread ctrl_c([&] {
    answered.wait();
    cli.interrupt.Signal();
  });
  CliResult result = cli.Run({"top", "--interval", "0.01", "--metrics-url", metrics.url()});
  ctrl_c.join();
  return result;
}

TEST(TopCommandTest, CtrlCRestoresTheTerminal) {
  const CliResult result = TopUntil(3, true, [](int number) { return HttpOk(Metrics(number, 0)); });
  EXPECT_EQ(result.code, ExitCode::kInterrupted);
  EXPECT_THAT(result.out,
              AllOf(StartsWith("\x1b[?1049h\x1b[?25l"), EndsWith("\x1b[?25h\x1b[?1049l"), HasSubstr("1 running")));
}

TEST(TopCommandTest, APipeGetsPlainPicturesOneAfterTheOther) {
  const CliResult result = TopUntil(4, false, [](int number) { return HttpOk(Metrics(number, 0)); });
  EXPECT_THAT(result.out, AllOf(HasSubstr("1 running"), HasSubstr("2 running"), Not(HasSubstr("\x1b"))));
}

TEST(TopCommandTest, AServerThatIsGoneIsWaitedFor) {
  const CliResult result = TopUntil(4, false, [](int number) {
    return number == 1 ? "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n" : HttpOk(Metrics(number, 0));
  });
  EXPECT_THAT(result.out, AllOf(HasSubstr("the answer is HTTP status 503"), HasSubstr("2 running")));
}

TEST(TopCommandTest, AServerThatWasNeverThereIsAFailure) {
  CliRun cli;
  const std::string target = RefusingTarget();
  const CliResult result = cli.Run({"top", "--metrics-url", absl::StrCat("http://", target, "/metrics")});
  EXPECT_EQ(result.code, ExitCode::kUnavailable);
  EXPECT_EQ(result.err, absl::StrCat("farspan: cannot read the server's metrics at http://", target,
                                     "/metrics: Connection refused\n"));
  EXPECT_EQ(cli.Run({"top", "--server", "unix:/tmp/x"}).code, ExitCode::kUsage);
}

}  // namespace
}  // namespace farspan::cli
