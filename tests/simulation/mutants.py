# SPDX-License-Identifier: Apache-2.0
"""Planted bugs that the simulation must find: each is one edit of one source, compiled for tests alone.

`mutants.py write NAME SOURCE_ROOT OUTPUT` writes the changed source; `mutants.py check NAME BINARY` runs the simulation
that was linked with it and passes if one of the expected invariants, or a check of the engine, has reported it.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

SIMULATION_ARGUMENTS = ("--min-seeds", "1000", "--min-steps", "1000000")


@dataclass(frozen=True)
class Mutant:
    """One bug: `find` stands exactly once in `source` and becomes `replacement`; `reports` are what may say so."""

    source: str
    find: str
    replacement: str
    reports: tuple[str, ...]


MUTANTS = {
    # Where many pages are free, so that the step itself does not run short of one.
    "page_leak": Mutant(
        "engine/kv/page_pool.cc",
        "free_.pop_back();\n  AddReference(page);",
        "free_.pop_back();\n  if (page == PageId{30} && free_.size() > 20) free_.pop_back();\n  AddReference(page);",
        ("page_accounting",),
    ),
    "double_free": Mutant(
        "engine/kv/page_pool.cc",
        "if (--count == 0) free_.push_back(page);",
        "if (--count <= 1) free_.push_back(page);",
        ("page_accounting",),
    ),
    "share_across_policies": Mutant(
        "engine/kv/prefix_key.cc",
        "AppendNumber(parts.fingerprint.value, &scope);",
        "AppendNumber(parts.fingerprint.value & 0, &scope);",
        ("page_sharing", "output"),
    ),
    "share_across_tenants": Mutant(
        "engine/kv/prefix_key.cc",
        "AppendFramed(parts.tenant, &scope);",
        "AppendFramed(parts.tenant.substr(0, 0), &scope);",
        ("page_sharing",),
    ),
    "write_to_shared_page": Mutant(
        "engine/sched/scheduler.cc",
        "if (pool_->reference_count(shared) > 1) {",
        "if (pool_->reference_count(shared) > 9) {",
        ("output", "bad_read", "page_sharing"),
    ),
    "lost_wake_up": Mutant(
        "engine/engine_inbox.cc",
        "submissions_.push_back(std::move(submission));\n  }\n  doorbell_->Ring();",
        "submissions_.push_back(std::move(submission));\n  }",
        ("wake_up",),
    ),
    "replay_prefills": Mutant(
        "engine/batch_builder.cc",
        ".prompt_tokens = sequence.prompt_tokens()});",
        ".prompt_tokens = part.end < sequence.num_tokens() ? part.end : sequence.prompt_tokens()});",
        ("output",),
    ),
    "unbounded_overtaking": Mutant(
        "engine/sched/step_planner.cc",
        "passes_left = std::min(passes_left, Scheduler::kMaxOvertaken - sequence.times_overtaken());",
        "passes_left = std::min(passes_left, Scheduler::kMaxOvertaken);",
        ("order",),
    ),
    "penalties_run_ahead": Mutant(
        "engine/sched/scheduler.cc",
        "sequence->num_runnable() > 0 && sequence->request().sampling.penalises();",
        "sequence->num_runnable() > 0 && sequence->request().sampling.seed == 77777;",
        ("output",),
    ),
    "draw_of_another_step": Mutant(
        "engine/batch_builder.cc",
        "AppendRows(sequence, queries, draw_row_before, &batch);",
        "AppendRows(sequence, queries, sequence.draw_row(), &batch);",
        ("output",),
    ),
    # A step that finds no memory leaves them unwritten.
    "pages_shown_in_flight": Mutant(
        "engine/sched/prefix_sharing.cc",
        "const int64_t full_pages = sequence->computed() / chain.page_tokens();",
        "const int64_t full_pages =\n"
        "      std::min(sequence->scheduled(), sequence->num_tokens()) / chain.page_tokens();",
        ("bad_read", "output"),
    ),
    "forgotten_queue_deadline": Mutant(
        "engine/sched/step_planner.cc",
        "if (!group.started() && request.queue_deadline <= now) {",
        "if (group.started() && request.queue_deadline <= now && request.prompt.empty()) {",
        ("promptness", "outcome"),
    ),
}

_REPORT = re.compile(r"^seed \d+, step \d+: (\w+):", re.MULTILINE)


def write(name: str, root: Path, output: Path) -> None:
    """Writes the source of `name` with its bug in it."""
    mutant = MUTANTS[name]
    text = (root / mutant.source).read_text(encoding="utf-8")
    if text.count(mutant.find) != 1:
        sys.exit(f"mutant {name}: {mutant.source} holds its text {text.count(mutant.find)} times, expected once")
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(text.replace(mutant.find, mutant.replacement), encoding="utf-8")


def check(name: str, binary: str) -> None:
    """Ends with 0 if the simulation has found `name` and said what is wrong."""
    run = subprocess.run([binary, *SIMULATION_ARGUMENTS], capture_output=True, text=True, check=False)
    print(run.stdout, run.stderr, sep="")
    report = _REPORT.search(run.stdout)
    if run.returncode != 1 or report is None:
        sys.exit(f"mutant {name} was not reported by an invariant: exit code {run.returncode}")
    if report[1] not in MUTANTS[name].reports:
        sys.exit(f"mutant {name} was reported as {report[1]}, expected one of {', '.join(MUTANTS[name].reports)}")
    print(f"mutant {name} was found: {report[1]}")


def main() -> None:
    """Runs the command of the command line."""
    command, name, *rest = sys.argv[1:]
    if command == "write":
        write(name, Path(rest[0]), Path(rest[1]))
    else:
        check(name, rest[0])


if __name__ == "__main__":
    main()
