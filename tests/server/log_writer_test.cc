// SPDX-License-Identifier: Apache-2.0
#include "server/log_writer.h"

#include <gmock/gmock.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <nlohmann/json.hpp>

#include "engine/base/log.h"
#include "server/json_line.h"
#include "server/server_log.h"

namespace farspan {
namespace {

SteadyTime In(std::chrono::milliseconds time) { return std::chrono::steady_clock::now() + time; }

// A pipe whose reading end the test holds.
class Pipe {
 public:
  Pipe() { EXPECT_EQ(pipe(fds_), 0); }
  ~Pipe() {
    close(fds_[0]);
    close(fds_[1]);
  }
  int write_fd() const { return fds_[1]; }
  std::string Read() {
    std::string text(1 << 20, '\0');
    const ssize_t size = read(fds_[0], text.data(), text.size());
    text.resize(size > 0 ? static_cast<size_t>(size) : 0);
    return text;
  }

 private:
  int fds_[2];
};

TEST(LogWriterTest, WritesLinesInOrder) {
  Pipe pipe;
  LogWriter writer(pipe.write_fd());
  writer.Write("one");
  writer.Write("two");
  EXPECT_TRUE(writer.Flush(In(std::chrono::seconds(10))));
  EXPECT_EQ(pipe.Read(), "one\ntwo\n");
  EXPECT_EQ(writer.num_dropped(), 0);
}

TEST(LogWriterTest, APipeThatNobodyReadsStallsNobodyAndDropsAreCounted) {
  Pipe pipe;
  LogWriter writer(pipe.write_fd(), /*max_lines=*/64);
  const std::string line(4000, 'x');
  // Far more than the pipe's buffer and the queue hold: a writer that blocked would never end the loop.
  for (int i = 0; i < 1000; ++i) writer.Write(line);
  EXPECT_GT(writer.num_dropped(), 800);
  EXPECT_FALSE(writer.Flush(In(std::chrono::milliseconds(1))));
  // The destructor must come back too.
}

TEST(LogWriterTest, ABrokenPipeCountsItsLines) {
  signal(SIGPIPE, SIG_IGN);
  int fds[2];
  ASSERT_EQ(pipe(fds), 0);
  close(fds[0]);
  {
    LogWriter writer(fds[1]);
    writer.Write("lost");
    EXPECT_TRUE(writer.Flush(In(std::chrono::seconds(10))));
    EXPECT_EQ(writer.num_dropped(), 1);
  }
  close(fds[1]);
}

TEST(LogWriterTest, LongLinesAreCut) {
  Pipe pipe;
  LogWriter writer(pipe.write_fd());
  writer.Write(std::string(100'000, 'x'));
  EXPECT_TRUE(writer.Flush(In(std::chrono::seconds(10))));
  EXPECT_EQ(pipe.Read().size(), kMaxLogLineBytes + 1);
}

TEST(JsonLineTest, ControlCharactersAndBadUtf8AreEscaped) {
  JsonLine line("request");
  line.Add("text", std::string("a\"\\\n\r\t\x00\x7f\x1b[31m\xff\xC3\xA4", 16)).Add("count", int64_t{-3}).Add("ms", 1.5);
  const std::string text = "{" + line.fields() + "}";
  for (const char c : text) EXPECT_GE(static_cast<unsigned char>(c), 0x20) << text;
  const auto json = nlohmann::json::parse(text);
  EXPECT_EQ(json["event"], "request");
  EXPECT_EQ(json["text"], std::string("a\"\\\n\r\t\x00\x7f\x1b[31m", 13) + "\xEF\xBF\xBD\xC3\xA4");
  EXPECT_EQ(json["count"], -3);
  EXPECT_DOUBLE_EQ(json["ms"], 1.5);
}

TEST(ServerLogTest, OneObjectALineAndLevelsBelowAreLeftOut) {
  Pipe pipe;
  {
    LogWriter writer(pipe.write_fd());
    StartServerLog(&writer, LogLevel::kInfo);
    LogLine(LogLevel::kDebug, JsonLine("hidden"));
    LogLine(LogLevel::kWarning, JsonLine("shown").Add("message", "two\nlines"));
    Log().info("from the engine");
    StopServerLog();
  }
  const std::string text = pipe.Read();
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 2) << text;
  const auto first = nlohmann::json::parse(text.substr(0, text.find('\n')));
  EXPECT_EQ(first["level"], "warning");
  EXPECT_EQ(first["event"], "shown");
  const auto second = nlohmann::json::parse(text.substr(text.find('\n') + 1));
  EXPECT_EQ(second["message"], "from the engine");
}

}  // namespace
}  // namespace farspan
