# SPDX-License-Identifier: Apache-2.0
"""Writes the golden log-probabilities of the independent reference: five prompts under dense and window policies.

    make_golden.py --model SmolLM2-135M-Instruct.Q4_1.gguf --output tests/data/reference/llama_reference.json

Token ids come from llama.cpp's tokenizer (special tokens only from the chat template) and are stored, so a test of the
engine needs no tokenizer. Takes about three minutes and 4 GB of memory.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict
from pathlib import Path

from golden_io import SCHEMA_VERSION, Json, model_identity, package_versions, rounded, write_golden
from llama_cpp_model import LlamaCppTokenizer
from llama_reference import LlamaReference, Policy, PromptLogprobs, TopToken, WindowPolicy
from prompts import LOGPROB_PROMPTS, PromptText

TOP_TOKENS = 5
TOP_POSITIONS = 8
"""Positions whose alternatives are kept, evenly spread and including the first and the last."""


def policies_for(prompt: PromptText) -> list[Policy]:
    """A window that the prompt outgrows; for short prompts a small one beside one that may cover them."""
    if prompt.name == "licence_4000":
        return [None, WindowPolicy(4, 256), WindowPolicy(4, 256, true_positions=True)]
    policies: list[Policy] = [None, WindowPolicy(4, 256), WindowPolicy(4, 32)]
    if prompt.name == "licence_600":
        policies.append(WindowPolicy(4, 32, true_positions=True))
    return policies


def policy_json(policy: Policy) -> Json:
    """The policy as the golden names it."""
    if policy is None:
        return {"name": "dense"}
    return {"name": "window", **asdict(policy)}


def top_json(top: list[TopToken]) -> list[Json]:
    """Alternatives, likeliest first."""
    return [{"token_id": token.token_id, "logprob": rounded(token.logprob)} for token in top]


def run_json(policy: Policy, result: PromptLogprobs) -> Json:
    """One prompt under one policy."""
    last = len(result.logprobs) - 1
    positions = sorted({1 + (last - 1) * step // (TOP_POSITIONS - 1) for step in range(TOP_POSITIONS)})
    top = {position: result.top[position] for position in positions}
    return {
        "policy": policy_json(policy),
        "logprobs": [rounded(value) for value in result.logprobs],
        "top": [{"position": position, "tokens": top_json(row)} for position, row in top.items() if row is not None],
        "next_top": top_json(result.next_top),
    }


def main() -> int:
    """Computes and writes the golden."""
    parser = argparse.ArgumentParser(description="Writes the golden log-probabilities of the independent reference.")
    parser.add_argument("--model", type=Path, required=True, help="GGUF file")
    parser.add_argument("--output", type=Path, required=True, help="golden to write")
    args = parser.parse_args()

    tokenizer = LlamaCppTokenizer(args.model)
    model = LlamaReference(args.model)
    prompts: list[Json] = []
    for prompt in LOGPROB_PROMPTS:
        token_ids = tokenizer.encode(prompt)
        runs = []
        for policy in policies_for(prompt):
            begin = time.monotonic()
            result = model.prompt_logprobs(token_ids, policy, TOP_TOKENS)
            runs.append(run_json(policy, result))
            print(f"{prompt.name} {policy_json(policy)}: {len(token_ids)} tokens, {time.monotonic() - begin:.1f} s")
        prompts.append({"name": prompt.name, "source": prompt.source, "token_ids": token_ids, "runs": runs})
    golden: Json = {
        "schema_version": SCHEMA_VERSION,
        "model": model_identity(args.model),
        "made_by": {"script": Path(__file__).name, "arithmetic": "float64", **package_versions("gguf", "numpy")},
        "prompts": prompts,
    }
    write_golden(args.output, golden)
    return 0


if __name__ == "__main__":
    sys.exit(main())
