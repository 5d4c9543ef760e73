#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Ten times more requests than the server can serve, for a minute, and what becomes of those that it takes.

Serves the hash model with a step time that sleeps, so that the processors are left to the server's front end and to the
client. Measures the capacity C with a closed loop, then sends open loops at 1 x C, 10 x C and 1 x C again. Latencies
count from the time at which a request was due, so that a server that stops reading cannot hide it.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from load_harness import Record, RssSampler, Server, bench, parser, rows

SERVER_FLAGS = (
    "--model=hash:step_us=10000",
    "--max-num-seqs=16",
    "--max-num-queued-reqs=32",
)
REQUEST_FLAGS = ("--random-input-len=64", "--random-output-len=32", "--ignore-eos", "--metric-percentiles=50,99")
WARM_S = 10  # of the storm, before its memory counts as settled


def _open_loop(arguments: argparse.Namespace, server: Server, rate: float, seconds: float, seed: int) -> dict[str, Any]:
    flags = [f"--request-rate={rate:.3f}", f"--num-prompts={max(1, round(rate * seconds))}", f"--seed={seed}"]
    return rows(bench(arguments.bin, server, [*REQUEST_FLAGS, *flags, "--connections=16"]))[0]


def _line(name: str, row: dict[str, Any]) -> str:
    ledger = row["ledger"]
    return (
        f"{name}: {row['request_rate'] if isinstance(row['request_rate'], str) else round(row['request_rate'], 1)} requests/s "
        f"for {row['duration']:.1f} s: sent {ledger['sent']}, ok {ledger['ok']}, rejected {ledger['rejected']}, other "
        f"{ledger['sent'] - ledger['ok'] - ledger['rejected']}; goodput {row['request_throughput']:.2f}/s, TTFT p50 "
        f"{row['p50_ttft_ms']:.0f} ms, p99 {row['p99_ttft_ms']:.0f} ms; rejects p50 {row['p50_reject_ms']:.2f} ms, p99 "
        f"{row['p99_reject_ms']:.2f} ms; latest sending {row['max_send_delay_ms']:.1f} ms"
    )


def _check_storm(record: Record, capacity: float, calm: dict[str, Any], storm: dict[str, Any]) -> None:
    for name, rate in (("that at 1 x C", calm["request_throughput"]), ("C", capacity)):
        share = storm["request_throughput"] / rate
        record.check(f"goodput in the storm is at least 95 % of {name}", share >= 0.95, f"{100 * share:.1f} %")
    ledger = storm["ledger"]
    strange = {name: entry["count"] for name, entry in storm["errors_by_code"].items()}
    strange = {name: count for name, count in strange.items() if not name.startswith("RESOURCE_EXHAUSTED ")}
    record.check("only OK and RESOURCE_EXHAUSTED", not strange, f"{strange or 'nothing else'}")
    with_delay = ledger["rejected_with_retry_delay"]
    record.check(
        "every refusal says when to come back",
        with_delay == ledger["rejected"] > 0,
        f"{with_delay} of {ledger['rejected']} with RetryInfo",
    )
    p99 = storm["p99_reject_ms"]
    record.check("refusals within 50 ms at p99, from when they were due", p99 <= 50, f"{p99:.2f} ms")


def _check_memory(record: Record, before_mib: float, samples: list[tuple[float, float]]) -> None:
    settled = [mib for seconds, mib in samples if seconds >= WARM_S]
    growth = max(mib for _, mib in samples) - before_mib
    quarter = max(1, len(settled) // 4)
    drift = sum(settled[-quarter:]) / quarter - sum(settled[:quarter]) / quarter
    record.check("memory grows by at most 64 MiB in the storm", growth <= 64, f"{growth:.1f} MiB over {before_mib:.1f}")
    record.check(
        f"memory is flat after its first {WARM_S} s: last quarter within 4 MiB of the first",
        drift <= 4,
        f"{drift:+.2f} MiB",
    )


def main() -> int:
    """Runs everything; 0 where every requirement holds."""
    flags = parser(__doc__ or "")
    flags.add_argument("--storm-seconds", type=float, default=60, help="length of the 10 x C phase")
    flags.add_argument("--calm-seconds", type=float, default=20, help="length of each 1 x C phase")
    flags.add_argument("--factor", type=float, default=10, help="how many times the capacity")
    arguments = flags.parse_args()
    record = Record("overload", arguments.note)
    record.fact(f"Server: `farspan-server {' '.join(SERVER_FLAGS)}`. Requests: `{' '.join(REQUEST_FLAGS)}`.")
    with Server(arguments.bin, SERVER_FLAGS) as server:
        closed = rows(
            bench(arguments.bin, server, [*REQUEST_FLAGS, "--max-concurrency=24", "--num-prompts=600", "--seed=1"])
        )[0]
        capacity = closed["request_throughput"]
        record.fact(f"Capacity C, 24 requests at a time: {capacity:.2f} requests/s.")
        calm = _open_loop(arguments, server, capacity, arguments.calm_seconds, 2)
        record.fact(_line("1 x C", calm))
        before_mib = server.rss_mib()
        with RssSampler(server) as sampler:
            storm = _open_loop(arguments, server, capacity * arguments.factor, arguments.storm_seconds, 3)
        record.fact(_line(f"{arguments.factor:g} x C", storm))
        after = _open_loop(arguments, server, capacity, arguments.calm_seconds, 4)
        record.fact(_line("1 x C again", after))
        _check_storm(record, capacity, calm, storm)
        _check_memory(record, before_mib, sampler.samples)
        back = after["request_throughput"] / calm["request_throughput"]
        record.check("goodput at 1 x C is back after the storm", back >= 0.9, f"{100 * back:.1f} %")
        idle = server.wait_for_idle(5)
        record.check("nothing runs, waits or holds pages at the end", not any(idle.values()), f"{idle}")
    return record.finish(not arguments.no_record)


if __name__ == "__main__":
    sys.exit(main())
