# SPDX-License-Identifier: Apache-2.0
"""Compares a server's prompt log-probabilities with the goldens, prompt by prompt and policy by policy.

    compare_logprobs.py --farspan build/cpu-release/bin/farspan --server localhost:50051 --path oracle

`--path oracle` (a server run with --cpu-isa portable --kv-cache-dtype f32): every value within 1e-3 of the reference.
`--path default`: the mean absolute difference no larger than llama.cpp's own on the same prompt, the better of its two
flash-attention settings; a window is held to the same bar, since llama.cpp has no such policy.
Exit code 1 if any row fails.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from farspan_cli import FarspanCli, add_cli_flags, print_table
from golden_io import Json, read_golden

ORACLE_TOLERANCE = 1e-3
GOLDENS = Path(__file__).resolve().parent.parent / "data" / "reference"


def attention_text(policy: Json) -> str:
    """The policy as the command's --attention takes it."""
    if policy["name"] == "dense":
        return "dense { }"
    positions = "POSITIONS_TRUE" if policy["true_positions"] else "POSITIONS_CACHE"
    sizes = f"sink_tokens: {policy['sink_tokens']} window_tokens: {policy['window_tokens']}"
    return f"window {{ {sizes} positions: {positions} }}"


def policy_label(policy: Json) -> str:
    """The policy for a person."""
    if policy["name"] == "dense":
        return "dense"
    return f"window {policy['sink_tokens']}/{policy['window_tokens']}" + (" true" if policy["true_positions"] else "")


def differences(answer: Json, token_ids: list[int], run: Json) -> tuple[list[float], float]:
    """Absolute differences of the chosen tokens, and the largest one of the alternatives that both sides list."""
    entries = answer["prompt_logprobs"]
    if len(entries) != len(token_ids) or entries[0] is not None:
        sys.exit(f"prompt_logprobs: must hold {len(token_ids)} entries, the first null; got {len(entries)}")
    for entry, token_id in zip(entries[1:], token_ids[1:], strict=True):
        if entry["token_id"] != token_id:
            sys.exit(f"prompt_logprobs: speaks of token {entry['token_id']} where the prompt has {token_id}")
    chosen = [abs(e["logprob"] - want) for e, want in zip(entries[1:], run["logprobs"][1:], strict=True)]
    alternatives = 0.0
    for place in run["top"]:
        ours = {token["token_id"]: token["logprob"] for token in entries[place["position"]]["top"]}
        for token in place["tokens"]:
            if token["token_id"] in ours:
                alternatives = max(alternatives, abs(ours[token["token_id"]] - token["logprob"]))
    return chosen, alternatives


def main() -> int:
    """Runs every golden prompt under every golden policy."""
    parser = argparse.ArgumentParser(description="Compares a server's prompt log-probabilities with the goldens.")
    add_cli_flags(parser)
    parser.add_argument("--path", choices=["oracle", "default"], required=True, help="which bar applies")
    parser.add_argument("--reference", type=Path, default=GOLDENS / "llama_reference.json")
    parser.add_argument("--llama-cpp", type=Path, default=GOLDENS / "llama_cpp_logprobs.json")
    parser.add_argument("--prompts", nargs="*", metavar="NAME", help="only these")
    args = parser.parse_args()

    cli = FarspanCli(args.farspan, args.server)
    bars = {
        prompt["name"]: min(run["mean_abs_diff"] for run in prompt["runs"])
        for prompt in read_golden(args.llama_cpp)["prompts"]
    }
    rows: list[list[str]] = []
    failed = 0
    for prompt in read_golden(args.reference)["prompts"]:
        if args.prompts and prompt["name"] not in args.prompts:
            continue
        for run in prompt["runs"]:
            policy = run["policy"]
            answer = cli.generate(prompt["token_ids"], attention_text(policy), 1, "--prompt-logprobs", "5")
            chosen, alternatives = differences(answer, prompt["token_ids"], run)
            mean, largest = sum(chosen) / len(chosen), max(*chosen, alternatives)
            passes = largest <= ORACLE_TOLERANCE if args.path == "oracle" else mean <= bars[prompt["name"]]
            failed += not passes
            bar = f"max {ORACLE_TOLERANCE}" if args.path == "oracle" else f"mean {bars[prompt['name']]:.6f}"
            verdict = "pass" if passes else "FAIL"
            rows.append([prompt["name"], policy_label(policy), f"{largest:.6f}", f"{mean:.6f}", bar, verdict])
            print(f"{prompt['name']}, {policy_label(policy)}: {verdict}", file=sys.stderr, flush=True)
    print_table(["prompt", "policy", "max abs diff", "mean abs diff", "bar", "verdict"], rows)
    print(f"{len(rows) - failed} of {len(rows)} within the bar")
    return 1 if failed or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
