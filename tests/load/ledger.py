#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Every request ends once, and three ledgers agree on how: the client's, the server's log, the server's metrics.

64 streams at a time under mixed policies, a part of them cancelled at random times and a part with a deadline, on a
quarter of the KV pages that 64 such requests need. Each request carries a trace id under which the server logs it, so
that the ledgers are compared request by request. The tokens of each answer, whole or cut short, are compared with those
of the same request alone on a server with room for it. Two differences between client and log are no faults and are counted
apart: a client that left before its call reached the server has no line in the log, and a client that left while the
answer was under way sees its own leaving where the server saw an end.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import Counter
from typing import Any

from load_harness import Record, Server, bench, parser, rows

STREAMS = 64
INPUT_TOKENS = 96
OUTPUT_TOKENS = 416
STEP_FLAGS = "hash:step_us=2000,prefill_us_per_token=2,decode_us_per_row=20"
# Options with which a policy forgets or selects within these prompts.
OPTIONS = {"window": "window { window_tokens: 96 }", "quest": "quest { budget_tokens: 128 }"}
LEFT = ("CANCELLED", "DEADLINE_EXCEEDED")


def _policies(arguments: argparse.Namespace, server: Server) -> list[str]:
    """All policies that the server offers."""
    command = [str(arguments.bin / "farspan"), "policies", "--json", "--server", server.target]
    answer = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    names = [policy["name"] for policy in answer["policies"]]
    return [OPTIONS.get(name, name) for name in names]


def _quarter_bytes(arguments: argparse.Namespace) -> int:
    """A quarter of the KV bytes of 64 requests."""
    with Server(arguments.bin, [f"--model={STEP_FLAGS}"]) as server:
        command = [str(arguments.bin / "farspan"), "info", "--json", "--server", server.target]
        info = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    cache = info["kv_cache"]
    page_tokens = int(cache["page_tokens"])
    pages = STREAMS * -(-(INPUT_TOKENS + OUTPUT_TOKENS) // page_tokens)
    return pages // 4 * page_tokens * int(cache["bytes_per_token"])


def _client_ends(result: dict[str, Any]) -> dict[str, str]:
    """The status code of each request that was sent, by trace id."""
    ends = {}
    for row in rows(result):
        for trace_id, fate, error in zip(row["trace_ids"], row["fates"], row["errors"], strict=True):
            if fate != "not_sent":
                ends[trace_id] = "OK" if fate == "ok" else error.split(" ")[0]
    return ends


def _compare(record: Record, client: dict[str, str], log: list[dict[str, Any]]) -> None:
    by_trace = Counter(line.get("trace_id", "") for line in log)
    twice = [trace for trace, count in by_trace.items() if count > 1]
    record.check("no request has two lines in the log", not twice, f"{len(twice)} have")
    unknown = [trace for trace in by_trace if trace not in client]
    record.check("every line of the log is of a request that the client sent", not unknown, f"{len(unknown)} are not")
    server = {line.get("trace_id", ""): line["code"] for line in log}
    absent = Counter(code for trace, code in client.items() if trace not in server)
    record.check(
        "only requests whose client left first are not in the log",
        all(code in LEFT for code in absent),
        f"{dict(absent) or 'all are in it'}",
    )
    both = [(client[trace], code) for trace, code in server.items() if trace in client]
    crossed = Counter(f"{theirs} here, {ours} there" for theirs, ours in both if theirs != ours)
    faults = [pair for pair in both if pair[0] != pair[1] and pair[0] not in LEFT]
    record.check(
        "client and log agree on the code of each request, but where the client left while the answer was under way",
        not faults,
        f"{dict(crossed) or 'all agree'}; {len(faults)} unexplained",
    )


def _check_metrics(record: Record, server: Server, log: list[dict[str, Any]]) -> None:
    scrape = server.scrape()
    by_code = Counter(line["code"] for line in log)
    counted = scrape.by("farspan_grpc_requests_total", "code", method="Generate")
    record.check("log and metrics agree by code", by_code == counted, f"log {dict(by_code)}, metrics {dict(counted)}")
    finished = scrape.by("farspan_requests_finished_total", "finish_reason")
    rejected = scrape.by("farspan_requests_rejected_total", "reason")
    total = finished.total() + rejected.total()
    record.check(
        "every call was either refused or finished by the engine, once",
        total == counted.total(),
        f"finished {dict(finished)} + rejected {dict(rejected)} = {total}, calls {counted.total()}",
    )
    preemptions = scrape.total("farspan_preemptions_total")
    record.check("the shortage of pages was felt", preemptions > 0, f"{preemptions:.0f} preemptions")
    dropped = scrape.total("farspan_log_dropped_total")
    record.check("no line of the log was dropped", dropped == 0, f"{dropped:.0f}")


def _answers(result: dict[str, Any]) -> list[list[int]]:
    """The tokens of each request, by policy and order."""
    return [tokens for row in rows(result) for tokens in row["output_token_ids"]]


def _check_answers(record: Record, arguments: argparse.Namespace, flags: list[str], result: dict[str, Any]) -> None:
    """One request at a time, nothing cancelled, on a server without a step time, which changes no token."""
    with Server(arguments.bin, ["--model=hash:"]) as server:
        alone = _answers(bench(arguments.bin, server, [*flags, "--max-concurrency=1"]))
    together = _answers(result)
    different = sum(theirs != whole[: len(theirs)] for theirs, whole in zip(together, alone, strict=True))
    whole_answers = sum(bool(theirs) and theirs == whole for theirs, whole in zip(together, alone, strict=True))
    record.check(
        "every answer has the tokens that the request alone gets",
        different == 0 and whole_answers > 0,
        f"{whole_answers} whole and {len(together) - whole_answers} cut short, {different} different",
    )


def main() -> int:
    """Runs everything; 0 where every requirement holds."""
    flags = parser(__doc__ or "")
    flags.add_argument("--num-prompts", type=int, default=1000, help="requests in all")
    flags.add_argument("--seed", type=int, default=1, help="of prompts, cancels and deadlines")
    arguments = flags.parse_args()
    record = Record("ledger", arguments.note)
    kv_bytes = _quarter_bytes(arguments)
    server_flags = [f"--model={STEP_FLAGS}", f"--kv-cache-bytes={kv_bytes}"]
    with Server(arguments.bin, server_flags) as server:
        policies = _policies(arguments, server)
        request_flags = [f"--random-input-len={INPUT_TOKENS}", f"--random-output-len={OUTPUT_TOKENS}", "--ignore-eos"]
        request_flags += [f"--num-prompts={arguments.num_prompts}"]
        request_flags += ["--random-range-ratio=0.5", "--random-prefix-len=64", f"--seed={arguments.seed}"]
        request_flags += ["--mixed", "--save-detailed"]
        for policy in policies:
            request_flags.append(f"--attention={policy}")
        asked = list(request_flags)
        request_flags += [f"--max-concurrency={STREAMS}", "--cancel-fraction=0.2", "--cancel-within-ms=1500"]
        request_flags += ["--deadline-ms=1500", "--deadline-fraction=0.2"]
        record.fact(f"Server: `farspan-server {' '.join(server_flags)}`. Requests: `{' '.join(request_flags)}`.")
        result = bench(arguments.bin, server, request_flags)
        for row in rows(result):
            record.fact(f"{row['attention']}: {row['ledger']}, by code {row['errors_by_code']}")
            parts = [row["ledger"][fate] for fate in ("ok", "rejected", "deadline", "cancelled", "failed")]
            record.check(
                f"{row['attention']}: sent = ok + rejected + deadline + cancelled + failed, and none failed",
                sum(parts) == row["ledger"]["sent"] and parts[-1] == 0,
                f"{row['ledger']['sent']} = {' + '.join(str(part) for part in parts)}",
            )
        idle = server.wait_for_idle(5)
        record.check("running, waiting, streams and pages in use return to zero", not any(idle.values()), f"{idle}")
        log = [line for line in server.log_lines() if line["event"] == "request" and line["method"] == "Generate"]
        _compare(record, _client_ends(result), log)
        _check_metrics(record, server, log)
    _check_answers(record, arguments, asked, result)
    return record.finish(not arguments.no_record)


if __name__ == "__main__":
    sys.exit(main())
