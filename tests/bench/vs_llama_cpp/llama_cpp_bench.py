# SPDX-License-Identifier: Apache-2.0
"""llama.cpp's prefill and decode rates at a depth, through its C interface: a call a batch, nothing else in Python."""

from __future__ import annotations

import ctypes
import time
from pathlib import Path

import llama_cpp

BATCH_TOKENS = 512
SEQUENCE = 0
FLASH_ATTENTION = {False: llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED, True: llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED}


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _drop_log(level: int, text: bytes, user_data: ctypes.c_void_p) -> None:
    """llama.cpp logs each tensor otherwise."""


class LlamaCppModel:
    """The weights, shared by every context."""

    def __init__(self, model: Path) -> None:
        llama_cpp.llama_log_set(_drop_log, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = 0
        handle = llama_cpp.llama_model_load_from_file(str(model).encode(), params)
        if handle is None:
            raise ValueError(f"llama.cpp cannot load {model}")
        self.handle = handle
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(handle))


class LlamaCppContext:
    """One context whose cache holds `depth` tokens between measurements; f16 keys and values, its default."""

    def __init__(
        self, model: LlamaCppModel, depth: int, extra_tokens: int, threads: int, flash_attention: bool
    ) -> None:
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = depth + extra_tokens
        params.n_batch = BATCH_TOKENS
        params.n_ubatch = BATCH_TOKENS
        params.n_threads = threads
        params.n_threads_batch = threads
        params.flash_attn_type = FLASH_ATTENTION[flash_attention]
        handle = llama_cpp.llama_init_from_model(model.handle, params)
        if handle is None:
            raise ValueError("llama.cpp cannot make a context")
        self._handle = handle
        self._memory = llama_cpp.llama_get_memory(handle)
        self._batch = llama_cpp.llama_batch_init(BATCH_TOKENS, 0, 1)
        self._vocabulary = model.vocabulary
        self.depth = depth
        for begin in range(0, depth, BATCH_TOKENS):
            self._decode(begin, min(BATCH_TOKENS, depth - begin))

    def prefill_rate(self, tokens: int) -> float:
        """Tokens a second of a prefill that starts at the depth."""
        begin = time.perf_counter()
        for done in range(0, tokens, BATCH_TOKENS):
            self._decode(self.depth + done, min(BATCH_TOKENS, tokens - done))
        seconds = time.perf_counter() - begin
        self._forget()
        return tokens / seconds

    def decode_rate(self, tokens: int) -> float:
        """Tokens a second, one at a time, from the depth on."""
        begin = time.perf_counter()
        for step in range(tokens):
            self._decode(self.depth + step, 1)
        seconds = time.perf_counter() - begin
        self._forget()
        return tokens / seconds

    def _decode(self, position: int, tokens: int) -> None:
        """Runs tokens at consecutive positions; the last one's logits are computed."""
        batch = self._batch
        batch.n_tokens = tokens
        for i in range(tokens):
            batch.token[i] = ((position + i) * 7919 + 17) % self._vocabulary
            batch.pos[i] = position + i
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = SEQUENCE
            batch.logits[i] = i == tokens - 1
        status = llama_cpp.llama_decode(self._handle, batch)
        if status != 0:
            raise RuntimeError(f"llama_decode: status {status} at position {position}")
        llama_cpp.llama_synchronize(self._handle)

    def _forget(self) -> None:
        """Drops everything past the depth."""
        if not llama_cpp.llama_memory_seq_rm(self._memory, SEQUENCE, self.depth, -1):
            raise RuntimeError("llama.cpp cannot drop the end of a sequence")
