# SPDX-License-Identifier: Apache-2.0
"""Compares a server's greedy continuations with llama.cpp's: 32 equal tokens, or a first difference that is a tie.

    compare_greedy.py --farspan build/cpu-release/bin/farspan --server localhost:50051

A first difference is a tie where our token is the runner-up within 1e-2, by llama.cpp or by the reference. On prompts
that the golden calls undecided, the reference itself leaves llama.cpp's path before its 32nd token; there our token
also stands where the reference prefers it to llama.cpp's, and the table says so. `--decided-only` leaves those
prompts out, `--strict` counts only equality and ties. After a first difference the texts are free. Exit code 1 if any
row fails.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from farspan_cli import FarspanCli, add_cli_flags, print_table
from golden_io import Json, read_golden

TIE = 1e-2
GOLDENS = Path(__file__).resolve().parent.parent / "data" / "reference"


def first_difference(ours: list[int], theirs: list[int]) -> int | None:
    """Index of the first difference, None if equal; a shorter list differs at its end."""
    if ours == theirs:
        return None
    pairs = zip(ours, theirs, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(ours), len(theirs)))


def judge(ours: list[int], golden: Json, strict: bool) -> tuple[bool, str]:
    """Whether our tokens stand, and why."""
    place = first_difference(ours, golden["token_ids"])
    if place is None:
        return True, "equal"
    if place >= min(len(ours), len(golden["token_ids"])):
        return False, f"ends after {len(ours)} tokens"
    token, gap, reference_gap = ours[place], golden["gaps"][place], golden["reference_gaps"][place]
    facts = (
        f"at {place}: {golden['token_ids'][place]} became {token}; gap {gap:.4f}, by the reference {reference_gap:.4f}"
    )
    preferred_by_reference = token == golden["reference_best_other_ids"][place]
    tie_of_llama_cpp = token == golden["runner_up_ids"][place] and gap <= TIE
    if tie_of_llama_cpp or (preferred_by_reference and abs(reference_gap) <= TIE):
        return True, f"tie {facts}"
    if not strict and preferred_by_reference and reference_gap < 0:
        return True, f"reference prefers ours {facts}"
    return False, f"differs {facts}"


def main() -> int:
    """Continues every golden prompt."""
    parser = argparse.ArgumentParser(description="Compares a server's greedy continuations with llama.cpp's.")
    add_cli_flags(parser)
    parser.add_argument("--golden", type=Path, default=GOLDENS / "llama_cpp_greedy.json")
    parser.add_argument("--decided-only", action="store_true", help="only the prompts that the golden calls decided")
    parser.add_argument("--strict", action="store_true", help="only equality and ties count, on every prompt")
    args = parser.parse_args()

    cli = FarspanCli(args.farspan, args.server)
    rows: list[list[str]] = []
    failed = 0
    for prompt in read_golden(args.golden)["prompts"]:
        if args.decided_only and not prompt["decided"]:
            continue
        golden = prompt["continuation"]
        answer = cli.generate(prompt["token_ids"], "dense { }", len(golden["token_ids"]))
        passes, reason = judge(answer["token_ids"], golden, args.strict or prompt["decided"])
        failed += not passes
        kind = "decided" if prompt["decided"] else "undecided"
        rows.append([prompt["name"], str(len(prompt["token_ids"])), kind, "pass" if passes else "FAIL", reason])
    print_table(["prompt", "prompt tokens", "kind", "verdict", "reason"], rows)
    print(f"{len(rows) - failed} of {len(rows)} stand")
    return 1 if failed or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
