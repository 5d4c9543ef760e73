# SPDX-License-Identifier: Apache-2.0
"""Writes llama.cpp's goldens on the same file: prompt log-probabilities and greedy continuations.

    llama_cpp_logprobs.py --model SmolLM2-135M-Instruct.Q4_1.gguf --reference D/llama_reference.json \\
        --output D/llama_cpp_logprobs.json --greedy-output D/llama_cpp_greedy.json    (D is tests/data/reference)

Log-probabilities: the dense prompts of the reference golden, with flash attention off and on, and their distance from
the reference. Greedy: some forty prompts, 32 tokens each, flash attention off, with the gap to the runner-up at every
position by llama.cpp and by the reference, so that a tie can be told from an error. llama.cpp's arithmetic depends on
the instruction set and the batch; both goldens say which were used. Takes a few minutes and 3 GB of memory.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import llama_cpp
import numpy as np
from golden_io import SCHEMA_VERSION, Json, model_identity, package_versions, read_golden, rounded, write_golden
from llama_cpp_model import BATCH_TOKENS, THREADS, LlamaCppModel, LlamaCppTokenizer
from llama_reference import KvState, LlamaReference
from prompts import GREEDY_PROMPTS

GREEDY_TOKENS = 32

TIE = 1e-2
"""Two tokens whose log-probabilities lie this close are a tie."""

END_OF_TURN_ID = 2
"""<|im_end|>: a prompt whose answer ends within 32 tokens is left out."""


def made_by() -> Json:
    """Everything that llama.cpp's numbers depend on."""
    return {
        "script": Path(__file__).name,
        "threads": THREADS,
        "batch_tokens": BATCH_TOKENS,
        "kv_cache": "f16",
        "system_info": llama_cpp.llama_print_system_info().decode().strip(),
        **package_versions("llama-cpp-python", "gguf", "numpy"),
    }


def logprobs_golden(model: Path, reference: Json) -> Json:
    """llama.cpp's log-probabilities of the reference's prompts."""
    prompts: list[Json] = [{"name": prompt["name"], "runs": []} for prompt in reference["prompts"]]
    context_tokens = max(len(prompt["token_ids"]) for prompt in reference["prompts"]) + BATCH_TOKENS
    for flash_attention in (False, True):
        llama = LlamaCppModel(model, context_tokens, flash_attention)
        for prompt, out in zip(reference["prompts"], prompts, strict=True):
            dense = next(run for run in prompt["runs"] if run["policy"]["name"] == "dense")
            chosen = llama.prompt_logprobs(prompt["token_ids"])
            difference = np.abs(np.array(chosen) - np.array(dense["logprobs"][1:]))
            run = {
                "flash_attention": flash_attention,
                "mean_abs_diff": rounded(float(difference.mean())),
                "max_abs_diff": rounded(float(difference.max())),
                "logprobs": [None, *(rounded(value) for value in chosen)],
            }
            out["runs"].append(run)
            print(f"{prompt['name']}: flash {flash_attention}, mean {run['mean_abs_diff']}, max {run['max_abs_diff']}")
    return {"schema_version": SCHEMA_VERSION, "model": model_identity(model), "made_by": made_by(), "prompts": prompts}


def continue_greedily(llama: LlamaCppModel, reference: LlamaReference, token_ids: list[int]) -> Json | None:
    """32 greedy tokens with both models' gaps to the runner-up; None if the answer ends before that."""
    chosen: list[int] = []
    runners_up: list[int] = []
    gaps: list[float] = []
    row = llama.next_logprobs(token_ids)
    for _ in range(GREEDY_TOKENS):
        best, second = (int(i) for i in np.argsort(-row, kind="stable")[:2])
        if best == END_OF_TURN_ID:
            return None
        chosen.append(best)
        runners_up.append(second)
        gaps.append(float(row[best] - row[second]))
        row = llama.append(best)

    hidden = reference.extend(token_ids + chosen[:-1], None, KvState())[len(token_ids) - 1 :]
    rows = reference.logprobs(hidden)
    steps = np.arange(GREEDY_TOKENS)
    others = rows.copy()
    others[steps, chosen] = -np.inf
    reference_gaps = rows[steps, chosen] - others.max(axis=1)
    return {
        "token_ids": chosen,
        "runner_up_ids": runners_up,
        "gaps": [rounded(gap) for gap in gaps],
        "reference_gaps": [rounded(float(gap)) for gap in reference_gaps],
        "reference_best_other_ids": [int(i) for i in others.argmax(axis=1)],
    }


def is_decided(continuation: Json) -> bool:
    """Whether the reference agrees with each of the 32 tokens, ties apart.

    Elsewhere llama.cpp's rounding, not the model, chose the token: it lies about 0.06 from the reference.
    """
    for place, reference_gap in enumerate(continuation["reference_gaps"]):
        if reference_gap < 0:
            other = continuation["reference_best_other_ids"][place]
            tie_of_llama_cpp = other == continuation["runner_up_ids"][place] and continuation["gaps"][place] <= TIE
            if not tie_of_llama_cpp and -reference_gap > TIE:
                return False
    return True


def greedy_golden(model: Path) -> Json:
    """llama.cpp's greedy continuations."""
    tokenizer = LlamaCppTokenizer(model)
    encoded = [(prompt, tokenizer.encode(prompt)) for prompt in GREEDY_PROMPTS]
    llama = LlamaCppModel(model, max(len(ids) for _, ids in encoded) + BATCH_TOKENS, flash_attention=False)
    reference = LlamaReference(model)
    prompts: list[Json] = []
    for prompt, token_ids in encoded:
        continuation = continue_greedily(llama, reference, token_ids)
        if continuation is None:
            print(f"{prompt.name}: left out, the answer is shorter than {GREEDY_TOKENS} tokens")
            continue
        smallest = min(*continuation["gaps"], *continuation["reference_gaps"])
        text = tokenizer.decode(continuation["token_ids"])
        print(f"{prompt.name}: smallest gap {smallest}: {text!r}")
        prompts.append(
            {
                "name": prompt.name,
                "source": prompt.source,
                "decided": is_decided(continuation),
                "token_ids": token_ids,
                "continuation": {"text": text, **continuation},
            }
        )
    made = {**made_by(), "flash_attention": False, "tie": TIE}
    return {"schema_version": SCHEMA_VERSION, "model": model_identity(model), "made_by": made, "prompts": prompts}


def main() -> int:
    """Writes the goldens that were asked for."""
    parser = argparse.ArgumentParser(description="Writes llama.cpp's golden log-probabilities and continuations.")
    parser.add_argument("--model", type=Path, required=True, help="GGUF file")
    parser.add_argument("--reference", type=Path, help="golden of make_golden.py; needed with --output")
    parser.add_argument("--output", type=Path, help="log-probability golden to write")
    parser.add_argument("--greedy-output", type=Path, help="greedy golden to write")
    args = parser.parse_args()
    if args.output and not args.reference:
        parser.error("--output needs --reference")
    if args.output:
        write_golden(args.output, logprobs_golden(args.model, read_golden(args.reference)))
    if args.greedy_output:
        write_golden(args.greedy_output, greedy_golden(args.model))
    return 0


if __name__ == "__main__":
    sys.exit(main())
