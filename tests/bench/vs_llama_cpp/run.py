# SPDX-License-Identifier: Apache-2.0
"""Prefill and decode rates beside llama.cpp's on the same file, threads and machine, and our own for what it lacks.

    run.py --model M.gguf --bench-engine build/cpu-release/bin/farspan-bench-engine
    run.py --model M.gguf --peer-only

Every round measures each depth with llama.cpp (flash attention off, then on) and with ours, one after the other, so
that a slow phase of the machine meets all; then, of ours alone, quest beside dense at the largest depth and eight
requests beside one at depth 1,000. Medians over the rounds are kept, and the better flash-attention setting is the one
that ours is compared with. Prints each ratio beside what is asked of it and writes a Markdown record into
tests/bench/results/.

The peer is PyPI's llama-cpp-python, built for the processor at hand:

    CMAKE_ARGS=-DGGML_NATIVE=ON pip install llama-cpp-python==0.3.36
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
from typing import Any

import llama_cpp
from llama_cpp_bench import LlamaCppContext, LlamaCppModel

RESULTS = Path(__file__).resolve().parent.parent / "results"
OURS = "Farspan"
PEERS = {False: "llama.cpp, flash attention off", True: "llama.cpp, flash attention on"}
DENSE = "dense { }"
QUEST = "quest { budget_tokens: 512 }"
BATCH_DEPTH = 1000
BATCH_REQUESTS = 8
BATCH_TOKENS = 128  # the first requests decode while the last ones' prompts are read


@dataclass(frozen=True)
class Rates:
    """Tokens a second."""

    prefill: float
    decode: float


@dataclass(frozen=True)
class Bar:
    """What is asked of a ratio."""

    least: float
    goal: float


DECODE_BARS = {0: Bar(1.0, 1.2), 2000: Bar(1.4, 1.8), 6000: Bar(2, 3)}
PREFILL_BARS = {0: Bar(1.2, 1.5), 2000: Bar(1.6, 2), 6000: Bar(2, 3)}
QUEST_BAR = Bar(2, 3)
BATCH_BAR = Bar(2.5, 4)


@dataclass
class Samples:
    """One value a round."""

    rates: dict[tuple[str, int], list[Rates]]  # by engine and depth
    quest: list[tuple[float, float]]  # dense and quest at the largest depth
    batch: list[tuple[float, float]]  # one request and several at BATCH_DEPTH
    isa: str = ""


def prefill_tokens(depth: int) -> int:
    """Tokens of a measured prefill: our chunks divide the depth at which they begin."""
    return 512 if depth % 512 == 0 else 500


def run_ours(args: argparse.Namespace, depth: int, *more: str, decode: int, batch: int = 1) -> list[dict[str, Any]]:
    """What one run of farspan-bench-engine prints, a policy an entry."""
    command = [str(args.bench_engine), "--model", str(args.model), "--json"]
    command += ["--device", "cpu", "--threads", str(args.threads), "--cpu-isa", args.cpu_isa]
    command += ["--depth", str(depth), "--prefill", str(prefill_tokens(depth)), "--decode", str(decode)]
    command += ["--batch", str(batch)]
    for attention in more or (DENSE,):
        command += ["--attention", attention]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def decode_rate(answer: dict[str, Any]) -> float:
    """Of one policy."""
    return float(answer["decode_tokens_per_second"])


def measure_ours(args: argparse.Namespace, depth: int, samples: Samples) -> None:
    """One run of ours at a depth."""
    with_quest = depth == max(args.depths) and depth > 0
    answers = run_ours(args, depth, *((DENSE, QUEST) if with_quest else (DENSE,)), decode=args.decode)
    samples.rates[OURS, depth].append(Rates(float(answers[0]["prefill_tokens_per_second"]), decode_rate(answers[0])))
    samples.isa = str(answers[0]["backend"])
    if with_quest:
        samples.quest.append((decode_rate(answers[0]), decode_rate(answers[1])))


def measure(args: argparse.Namespace) -> Samples:
    """All rounds, interleaved."""
    samples = Samples(defaultdict(list), [], [])
    model = LlamaCppModel(args.model)
    contexts = {
        (flash, depth): LlamaCppContext(model, depth, max(512, args.decode), args.threads, flash)
        for depth in args.depths
        for flash in PEERS
    }
    for context in contexts.values():
        context.decode_rate(4)
    for round_number in range(1, args.rounds + 1):
        for depth in args.depths:
            for flash, name in PEERS.items():
                context = contexts[flash, depth]
                prefill = context.prefill_rate(prefill_tokens(depth))
                samples.rates[name, depth].append(Rates(prefill, context.decode_rate(args.decode)))
            if not args.peer_only:
                measure_ours(args, depth, samples)
        if not args.peer_only:
            alone, together = (run_ours(args, BATCH_DEPTH, decode=BATCH_TOKENS, batch=n) for n in (1, BATCH_REQUESTS))
            samples.batch.append((decode_rate(alone[0]), decode_rate(together[0])))
        print(f"round {round_number} of {args.rounds}", file=sys.stderr, flush=True)
    return samples


def cpu_model() -> str:
    """The processor's name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def spread(values: list[float]) -> str:
    """Median with the range of the rounds."""
    return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def judged(what: str, value: float, bar: Bar | None) -> str:
    """A row of the table of ratios."""
    if bar is None:
        return f"| {what} | {value:.2f} | – | – | |"
    verdict = "goal met" if value >= bar.goal else "met" if value >= bar.least else "**missed**"
    return f"| {what} | {value:.2f} | ≥ {bar.least:g} | {bar.goal:g} | {verdict} |"


def over_peer(samples: Samples, depth: int, phase: str) -> float:
    """Our median over the better median of the peer's two settings."""

    def median(name: str) -> float:
        return statistics.median([float(getattr(rates, phase)) for rates in samples.rates[name, depth]])

    return median(OURS) / max(median(name) for name in PEERS.values())


def gain(pairs: list[tuple[float, float]]) -> float:
    """The second median over the first."""
    return statistics.median([b for _, b in pairs]) / statistics.median([a for a, _ in pairs])


def ratios(args: argparse.Namespace, samples: Samples) -> list[str]:
    """Every ratio beside what is asked of it."""
    lines = ["", "| ratio | measured | bar | goal | |", "|---|---|---|---|---|"]
    for depth in args.depths:
        value = over_peer(samples, depth, "decode")
        lines.append(judged(f"decode at depth {depth}, over llama.cpp", value, DECODE_BARS.get(depth)))
    for depth in args.depths:
        value = over_peer(samples, depth, "prefill")
        what = f"prefill of {prefill_tokens(depth)} tokens at depth {depth}, over llama.cpp"
        lines.append(judged(what, value, PREFILL_BARS.get(depth)))
    if samples.quest:
        what = f"decode at depth {max(args.depths)}, `{QUEST}` over our dense"
        lines.append(judged(what, gain(samples.quest), QUEST_BAR))
    what = f"{BATCH_REQUESTS} requests decoded together at depth {BATCH_DEPTH}, over one"
    lines.append(judged(what, gain(samples.batch), BATCH_BAR))
    return lines


def record(args: argparse.Namespace, samples: Samples) -> str:
    """The Markdown record."""
    command = " ".join(["run.py", *(Path(a).name if "/" in a else a for a in sys.argv[1:])])
    lines = [
        f"# Prefill and decode beside llama.cpp, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "",
        f"- Machine: {cpu_model()}, {os.cpu_count()} processors, {args.threads} threads used. {args.note}".rstrip(),
        f"- Model: {args.model.name}. Decode of {args.decode} tokens, medians of {args.rounds} interleaved rounds "
        "(smallest to largest in brackets), tokens a second.",
        f"- llama-cpp-python {version('llama-cpp-python')}: {llama_cpp.llama_print_system_info().decode().strip()}",
        f"- Farspan kernels: {samples.isa or 'not measured'}.",
        f"- Command: `{command}`",
        "",
        "| engine | depth | prefill | decode |",
        "|---|---|---|---|",
    ]
    for (name, depth), rates in sorted(samples.rates.items(), key=lambda item: (item[0][1], item[0][0])):
        prefill, decode = spread([r.prefill for r in rates]), spread([r.decode for r in rates])
        lines.append(f"| {name} | {depth} | {prefill} | {decode} |")
    if not args.peer_only:
        if samples.quest:
            lines.append(f"| {OURS}, `{QUEST}` | {max(args.depths)} | – | {spread([b for _, b in samples.quest])} |")
        lines.append(f"| {OURS} | {BATCH_DEPTH} | – | {spread([a for a, _ in samples.batch])} |")
        together = spread([b for _, b in samples.batch])
        lines.append(f"| {OURS}, {BATCH_REQUESTS} requests | {BATCH_DEPTH} | – | {together} |")
        lines += ratios(args, samples)
    return "\n".join(lines) + "\n"


def depth_list(text: str) -> list[int]:
    """Depths separated by commas, ascending."""
    return sorted({int(depth) for depth in text.split(",")})


def main() -> int:
    """Measures and writes the record."""
    parser = argparse.ArgumentParser(description="Prefill and decode rates beside llama.cpp's.")
    parser.add_argument("--model", type=Path, required=True, help="GGUF file")
    parser.add_argument("--bench-engine", type=Path, help="farspan-bench-engine")
    parser.add_argument("--peer-only", action="store_true", help="llama.cpp alone")
    parser.add_argument("--depths", type=depth_list, default=[0, 2000, 6000], help="tokens, separated by commas")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu-isa", default="auto", help="of ours, as farspan-bench-engine takes it")
    parser.add_argument("--decode", type=int, default=64, help="tokens of a measured decode")
    parser.add_argument("--note", default="", help="what else the machine was doing, for the record")
    parser.add_argument("--output", type=Path, help="record to write; named after the day without it")
    args = parser.parse_args()
    if args.peer_only == (args.bench_engine is not None):
        parser.error("exactly one of --bench-engine and --peer-only must be given")

    text = record(args, measure(args))
    output = args.output or RESULTS / f"vs_llama_cpp_{datetime.now(UTC):%Y-%m-%d}.md"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(text, encoding="utf-8")
    print(text)
    print(f"written to {output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
