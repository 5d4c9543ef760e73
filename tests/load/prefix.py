#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What the prefix cache saves: a 4,000-token prefix computed once, found again, and hidden from another tenant.

Two prompts share their first 4,000 tokens. The second must find at least 3,900 of them and its first token must come ten
times sooner. Another tenant that sends the same prompt must find nothing, where its owner, as a control, finds it all.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from load_harness import Record, Server, bench, parser, rows

PREFIX_TOKENS = 4000
SUFFIX_TOKENS = 16
LEAST_CACHED_TOKENS = 3900
LEAST_SPEEDUP = 10
MODEL = Path.home() / ".cache" / "farspan" / "SmolLM2-135M-Instruct.Q4_1.gguf"


def _ask(arguments: argparse.Namespace, server: Server, tenant: str, prompts: int) -> dict[str, Any]:
    flags = [f"--random-prefix-len={PREFIX_TOKENS}", f"--random-input-len={SUFFIX_TOKENS}", "--random-output-len=8"]
    flags += ["--ignore-eos", "--max-concurrency=1", "--save-detailed", "--seed=5", f"--tenant={tenant}"]
    return rows(bench(arguments.bin, server, [*flags, f"--num-prompts={prompts}"]))[0]


def main() -> int:
    """Runs everything; 0 where every requirement holds."""
    flags = parser(__doc__ or "")
    flags.add_argument(
        "--model", default=str(MODEL), help="what to serve: a GGUF file or hash:... [default: %(default)s]"
    )
    arguments = flags.parse_args()
    record = Record("prefix", arguments.note)
    with Server(arguments.bin, [f"--model={arguments.model}", "--trust-tenant-header"]) as server:
        record.fact(f"Model: {Path(arguments.model).name}, prefix {PREFIX_TOKENS} tokens, then {SUFFIX_TOKENS} others.")
        pair = _ask(arguments, server, "alice", 2)
        again = _ask(arguments, server, "alice", 1)
        other = _ask(arguments, server, "bob", 1)
        for name, row in (("alice, two prompts", pair), ("alice again", again), ("bob", other)):
            seconds = [f"{1e3 * ttft:.0f}" for ttft in row["ttfts"]]
            record.fact(f"{name}: cached tokens {row['cached_lens']}, TTFT {', '.join(seconds)} ms")
        cold, warm = pair["cached_lens"]
        record.check("the first prompt finds nothing", cold == 0, f"{cold} tokens")
        record.check(f"the second finds at least {LEAST_CACHED_TOKENS} tokens", warm >= LEAST_CACHED_TOKENS, f"{warm}")
        speedup = pair["ttfts"][0] / pair["ttfts"][1]
        record.check(
            f"its first token comes {LEAST_SPEEDUP} times sooner", speedup >= LEAST_SPEEDUP, f"{speedup:.1f} x"
        )
        hit, miss = again["cached_lens"][0], other["cached_lens"][0]
        record.check("the same prompt of the same tenant finds it", hit >= LEAST_CACHED_TOKENS, f"{hit} tokens")
        record.check("the same prompt of another tenant finds nothing", miss == 0, f"{miss} tokens")
    return record.finish(not arguments.no_record)


if __name__ == "__main__":
    sys.exit(main())
