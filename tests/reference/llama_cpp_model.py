# SPDX-License-Identifier: Apache-2.0
"""llama.cpp (PyPI's llama-cpp-python) as the scripts here use it: tokenizer and logits, fixed batch and threads."""

from __future__ import annotations

from pathlib import Path

import llama_cpp
import numpy as np
import numpy.typing as npt
from prompts import PromptText, chat_prompt

THREADS = 1
"""One: a row of a product is summed by one thread whatever their number, and a busy machine stalls at barriers."""

BATCH_TOKENS = 512
"""Logical and physical batch of every prefill: the shape of a batch changes the order of llama.cpp's sums."""


LOGIT_ROWS = 256
"""Rows of the vocabulary that are widened at once."""


class LlamaCppTokenizer:
    """Token ids by llama.cpp; loads the vocabulary only."""

    def __init__(self, model: Path) -> None:
        self._llama = llama_cpp.Llama(str(model), vocab_only=True, verbose=False)

    def encode(self, prompt: PromptText) -> list[int]:
        """Ids of a prompt; markers become special tokens only where the chat template put them."""
        text = chat_prompt(prompt.text) if prompt.chat else prompt.text
        if "<|" in prompt.text:
            raise ValueError(f"prompt {prompt.name} holds a special marker")
        return self.encode_text(text, special=prompt.chat)[: prompt.limit_tokens]

    def encode_text(self, text: str, special: bool) -> list[int]:
        """Ids of a text without BOS."""
        return list(self._llama.tokenize(text.encode("utf-8"), add_bos=False, special=special))

    def decode(self, token_ids: list[int]) -> str:
        """Text of ids, for people to read."""
        return self._llama.detokenize(token_ids).decode("utf-8", errors="replace")


class LlamaCppModel:
    """llama.cpp on the CPU with its default f16 KV cache."""

    def __init__(self, model: Path, context_tokens: int, flash_attention: bool) -> None:
        self._llama = llama_cpp.Llama(
            str(model),
            n_ctx=context_tokens,
            n_batch=BATCH_TOKENS,
            n_ubatch=BATCH_TOKENS,
            n_threads=THREADS,
            n_threads_batch=THREADS,
            flash_attn=flash_attention,
            logits_all=True,
            verbose=False,
        )

    def prompt_logprobs(self, token_ids: list[int]) -> list[float]:
        """Log-probability of each token but the first given those before it."""
        self._start(token_ids)
        chosen: list[float] = []
        for begin in range(0, len(token_ids) - 1, LOGIT_ROWS):
            targets = token_ids[begin + 1 : begin + 1 + LOGIT_ROWS]
            rows = log_softmax(self._llama.scores[begin : begin + len(targets)])
            chosen += [float(row[target]) for row, target in zip(rows, targets, strict=True)]
        return chosen

    def next_logprobs(self, token_ids: list[int]) -> npt.NDArray[np.float64]:
        """Log-probabilities of what follows a prompt, [vocabulary]."""
        self._start(token_ids)
        return self._last_logprobs()

    def append(self, token_id: int) -> npt.NDArray[np.float64]:
        """Log-probabilities of what follows one more token, [vocabulary]."""
        self._llama.eval([token_id])
        return self._last_logprobs()

    def _start(self, token_ids: list[int]) -> None:
        """Forgets everything before and runs a prompt."""
        self._llama.reset()  # type: ignore[no-untyped-call]
        self._llama.eval(token_ids)

    def _last_logprobs(self) -> npt.NDArray[np.float64]:
        return np.asarray(log_softmax(self._llama.scores[self._llama.n_tokens - 1][None])[0])


def log_softmax(logits: npt.NDArray[np.single]) -> npt.NDArray[np.float64]:
    """Natural-log probabilities of rows of logits."""
    rows = logits.astype(np.float64)
    rows -= rows.max(axis=1, keepdims=True)
    return np.asarray(rows - np.log(np.exp(rows).sum(axis=1, keepdims=True)))
