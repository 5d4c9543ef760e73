# SPDX-License-Identifier: Apache-2.0
"""Prefill and decode rates beside llama.cpp's on the same file, threads and machine, at depth 0 and 6000.

    run.py --model M.gguf --bench-engine build/cpu-release/tests/bench/farspan-bench-engine
    run.py --model M.gguf --peer-only

Every round measures each depth with llama.cpp (flash attention off, then on) and with ours, one after the other, so
that a slow phase of the machine meets all; medians over the rounds are kept, and the better flash-attention setting is
the one that ours is compared with. Writes a Markdown record into tests/bench/results/.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import llama_cpp
from llama_cpp_bench import LlamaCppContext, LlamaCppModel

DEPTHS = (0, 6000)
RESULTS = Path(__file__).resolve().parent.parent / "results"
OURS = "Farspan"
PEERS = {False: "llama.cpp, flash attention off", True: "llama.cpp, flash attention on"}


@dataclass(frozen=True)
class Rates:
    """Tokens a second."""

    prefill: float
    decode: float


Samples = dict[tuple[str, int], list[Rates]]
"""By engine and depth, one a round."""


def measure_ours(args: argparse.Namespace, depth: int) -> tuple[Rates, str]:
    """One run of farspan-bench-engine: its rates and the instruction set that it chose."""
    command = [str(args.bench_engine), "--model", str(args.model), "--json"]
    command += ["--device", "cpu", "--threads", str(args.threads)]
    command += ["--attention", "dense { }", "--depth", str(depth)]
    command += ["--prefill", str(args.prefill), "--decode", str(args.decode)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr}")
    answer = json.loads(done.stdout)
    return Rates(answer["prefill_tokens_per_second"], answer["decode_tokens_per_second"]), answer["backend"]


def measure(args: argparse.Namespace) -> tuple[Samples, str]:
    """All rounds, interleaved."""
    samples: Samples = defaultdict(list)
    isa = ""
    model = LlamaCppModel(args.model)
    contexts = {
        (flash, depth): LlamaCppContext(model, depth, max(args.prefill, args.decode), args.threads, flash)
        for depth in DEPTHS
        for flash in PEERS
    }
    for context in contexts.values():
        context.decode_rate(4)
    for round_number in range(1, args.rounds + 1):
        for depth in DEPTHS:
            for flash, name in PEERS.items():
                context = contexts[flash, depth]
                samples[name, depth].append(Rates(context.prefill_rate(args.prefill), context.decode_rate(args.decode)))
            if not args.peer_only:
                rates, isa = measure_ours(args, depth)
                samples[OURS, depth].append(rates)
        print(f"round {round_number} of {args.rounds}", file=sys.stderr, flush=True)
    return samples, isa


def cpu_model() -> str:
    """The processor's name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def spread(values: list[float]) -> str:
    """Median with the range of the rounds."""
    return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def record(args: argparse.Namespace, samples: Samples, isa: str) -> str:
    """The Markdown record."""
    command = " ".join(["run.py", *(Path(a).name if "/" in a else a for a in sys.argv[1:])])
    lines = [
        f"# Prefill and decode beside llama.cpp, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "",
        f"- Machine: {cpu_model()}, {os.cpu_count()} processors, {args.threads} threads used. {args.note}".rstrip(),
        f"- Model: {args.model.name}. Prefill of {args.prefill} tokens, decode of {args.decode}, medians of "
        f"{args.rounds} interleaved rounds (smallest to largest in brackets), tokens a second.",
        f"- llama-cpp-python {version('llama-cpp-python')}: {llama_cpp.llama_print_system_info().decode().strip()}",
        f"- Farspan kernels: {isa or 'not measured'}.",
        f"- Command: `{command}`",
        "",
        "| engine | depth | prefill | decode |",
        "|---|---|---|---|",
    ]
    for (name, depth), rates in sorted(samples.items(), key=lambda item: (item[0][1], item[0][0])):
        prefill, decode = spread([r.prefill for r in rates]), spread([r.decode for r in rates])
        lines.append(f"| {name} | {depth} | {prefill} | {decode} |")
    if not args.peer_only:
        lines += ["", "Farspan over the better llama.cpp setting:", "", "| depth | prefill | decode |", "|---|---|---|"]
        for depth in DEPTHS:
            lines.append(f"| {depth} | {ratio(samples, depth, 'prefill')} | {ratio(samples, depth, 'decode')} |")
    return "\n".join(lines) + "\n"


def ratio(samples: Samples, depth: int, phase: str) -> str:
    """Our median over the better median of the peer's two settings."""

    def median(name: str) -> float:
        return statistics.median([float(getattr(rates, phase)) for rates in samples[name, depth]])

    return f"{median(OURS) / max(median(name) for name in PEERS.values()):.2f}"


def main() -> int:
    """Measures and writes the record."""
    parser = argparse.ArgumentParser(description="Prefill and decode rates beside llama.cpp's.")
    parser.add_argument("--model", type=Path, required=True, help="GGUF file")
    parser.add_argument("--bench-engine", type=Path, help="farspan-bench-engine")
    parser.add_argument("--peer-only", action="store_true", help="llama.cpp alone")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prefill", type=int, default=512, help="tokens of a measured prefill")
    parser.add_argument("--decode", type=int, default=64, help="tokens of a measured decode")
    parser.add_argument("--note", default="", help="what else the machine was doing, for the record")
    parser.add_argument("--output", type=Path, help="record to write; named after the day without it")
    args = parser.parse_args()
    if args.peer_only == (args.bench_engine is not None):
        parser.error("exactly one of --bench-engine and --peer-only must be given")

    text = record(args, *measure(args))
    output = args.output or RESULTS / f"vs_llama_cpp_{datetime.now(UTC):%Y-%m-%d}.md"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(text, encoding="utf-8")
    print(text)
    print(f"written to {output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
