// SPDX-License-Identifier: Apache-2.0
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "clients/cli/bench_json.h"
#include "clients/cli/bench_options.h"
#include "clients/cli/bench_run.h"
#include "clients/cli/bench_table.h"
#include "clients/cli/command.h"

namespace farspan::cli {
namespace {

constexpr int kPipedColumns = 240;

class BenchCommand final : public Command {
 public:
  std::string name() const override { return "bench"; }
  std::string summary() const override { return "send many requests and report latency, throughput and KV traffic"; }
  std::vector<std::string> examples() const override {
    return {"farspan bench --num-prompts 100 --max-concurrency 4 --attention dense --attention window --ignore-eos",
            "farspan bench --attention dense --attention window --prompt-lengths 1024,4096 --num-prompts 20 \\",
            "    --max-concurrency 1 --random-output-len 64 --ignore-eos",
            "farspan bench --dataset-name custom --dataset-path prompts.jsonl --request-rate 4 \\",
            "    --goodput ttft:500 tpot:50 --save-result --result-dir results"};
  }

  void AddFlags(FlagSet* flags) override {
    options_.AddTo(flags);
    connection_.AddTo(flags);
  }

  absl::Status Check() const override { return options_.Check(); }

  Outcome Run(Console* console) override {
    BenchResult result;
    const Outcome outcome = RunBench(options_, connection_, console, &result);
    const absl::Time now = absl::Now();
    if (!options_.json) {
      const int columns = console->out_is_terminal ? console->columns : kPipedColumns;
      console->out << BenchTables(options_, result, columns);
    } else {
      Json json = BenchJson(options_, result, now);
      if (outcome.code != ExitCode::kOk) json["error"] = outcome.sentence;
      console->out << JsonLine(json);
    }
    if (!options_.quiet) {
      for (const std::string& note : result.notes) console->err << "note: " << console->ForErr(note) << "\n";
    }
    return options_.save_result ? Save(result, now, outcome, console) : outcome;
  }

 private:
  Outcome Save(const BenchResult& result, absl::Time now, const Outcome& outcome, Console* console) const {
    std::vector<std::string> paths;
    const absl::Status status = SaveBenchResult(options_, result, now, &paths);
    if (!options_.quiet) {
      for (const std::string& path : paths) console->err << "wrote " << console->ForErr(path) << "\n";
    }
    if (status.ok() || outcome.code != ExitCode::kOk) return outcome;
    return {ExitCode::kOutputFailed, std::string(status.message())};
  }

  Connection connection_;
  BenchOptions options_;
};

}  // namespace

std::unique_ptr<Command> NewBenchCommand() { return std::make_unique<BenchCommand>(); }

}  // namespace farspan::cli
