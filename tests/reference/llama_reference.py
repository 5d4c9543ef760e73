# SPDX-License-Identifier: Apache-2.0
"""An independent forward pass of the Llama architecture: GGUF weights, numpy arithmetic, no code of the server.

The weights are the file's tensors dequantised to f32 by PyPI's `gguf`; nothing is quantised afterwards. The arithmetic
runs in float64 by default, so that the result is the model's answer to far more digits than any test compares, or in
float32 with `--dtype float32`. A whole prompt is computed at once, layer by layer; `extend` also takes single tokens,
so the same code generates.

Run as a script it prints a prompt's log-probabilities as JSON:
    llama_reference.py --model M.gguf --prompt-tokens-file IDS.json [--window 4,256 [--true-positions]] [--output O]
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGUFReader
from gguf.quants import dequantize

Array = npt.NDArray[Any]
Positions = npt.NDArray[np.integer[Any]]

QUERY_BLOCK = 256
"""Queries whose scores are held at once; bounds the memory of a long prompt to heads * block * keys."""

LOGIT_BLOCK = 256
"""Rows of logits held at once."""


@dataclass(frozen=True)
class WindowPolicy:
    """Query t reads keys j < sink_tokens and t - window_tokens < j <= t.

    With positions as in the cache a sink j lies at distance min(t, sink_tokens + window_tokens - 1) - j from query t;
    with true positions at t - j. Recent keys always lie at their true distance.
    """

    sink_tokens: int
    window_tokens: int
    true_positions: bool = False


Policy = WindowPolicy | None
"""None is dense: query t reads every key j <= t."""


@dataclass(frozen=True)
class LlamaShape:
    """The numbers of the GGUF's metadata that the forward pass needs."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    rope_dims: int
    rope_base: float
    norm_epsilon: float


@dataclass(frozen=True)
class TopToken:
    """One alternative at a position."""

    token_id: int
    logprob: float


@dataclass(frozen=True)
class PromptLogprobs:
    """Row i of each list speaks of token i given the tokens before it; row 0 has nothing before it and is None."""

    logprobs: list[float | None]
    top: list[list[TopToken] | None]
    next_top: list[TopToken]
    """What the model would say after the whole prompt."""


@dataclass
class KvState:
    """Keys (rotated to their true positions) and values so far; one [kv_heads, tokens, head_dim] array a layer."""

    keys: list[Array] = field(default_factory=list)
    values: list[Array] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        """How many tokens the state holds."""
        return int(self.keys[0].shape[1]) if self.keys else 0


def read_shape(reader: GGUFReader) -> LlamaShape:
    """Reads the shape; a file that this forward pass would compute wrongly is an error, not an approximation."""

    def value(key: str) -> Any:  # noqa: ANN401 - metadata values have any scalar type
        entry = reader.get_field(key)
        if entry is None:
            raise ValueError(f"the GGUF file has no key {key}")
        return entry.contents()

    architecture = value("general.architecture")
    if architecture != "llama":
        raise ValueError(f"general.architecture must be llama, got {architecture}")
    if reader.get_field("llama.rope.scaling.type") is not None or any(
        t.name == "rope_freqs.weight" for t in reader.tensors
    ):
        raise ValueError("RoPE scaling is not supported by this reference")
    width, heads = int(value("llama.embedding_length")), int(value("llama.attention.head_count"))
    head_dim_entry = reader.get_field("llama.attention.key_length")
    head_dim = int(head_dim_entry.contents()) if head_dim_entry is not None else width // heads
    return LlamaShape(
        layers=int(value("llama.block_count")),
        width=width,
        heads=heads,
        kv_heads=int(value("llama.attention.head_count_kv")),
        head_dim=head_dim,
        rope_dims=int(value("llama.rope.dimension_count")),
        rope_base=float(value("llama.rope.freq_base")),
        norm_epsilon=float(value("llama.attention.layer_norm_rms_epsilon")),
    )


def rotate(heads: Array, positions: Positions, shape: LlamaShape) -> Array:
    """RoPE on [heads, tokens, head_dim]: GGUF stores Llama's q and k so that dimensions (2i, 2i+1) are a pair."""
    dims = shape.rope_dims
    frequencies = shape.rope_base ** (-np.arange(0, dims, 2, dtype=np.float64) / dims)
    angles = positions[:, None].astype(np.float64) * frequencies
    cos, sin = np.cos(angles).astype(heads.dtype), np.sin(angles).astype(heads.dtype)
    out = heads.copy()
    even, odd = heads[..., 0:dims:2], heads[..., 1:dims:2]
    out[..., 0:dims:2] = even * cos - odd * sin
    out[..., 1:dims:2] = even * sin + odd * cos
    return out


def attend(
    queries: Array, keys: Array, values: Array, positions: Positions, policy: Policy, shape: LlamaShape
) -> Array:
    """Attention of unrotated queries at consecutive `positions` over cached keys; returns [heads, queries, head_dim].

    Keys are cached rotated to their true positions, so a sink that shall lie at distance d is scored with the query
    rotated to position d + j instead of t: only the difference of the two rotations counts.
    """
    last = int(positions[-1])
    if policy is None:
        parts = [(0, last + 1, positions)]
    else:
        sinks = min(policy.sink_tokens, last + 1)
        cached = np.minimum(positions, policy.sink_tokens + policy.window_tokens - 1)
        recent = max(sinks, int(positions[0]) - policy.window_tokens + 1)
        parts = [(0, sinks, positions if policy.true_positions else cached), (recent, last + 1, positions)]

    scores = []
    for begin, end, rotation in parts:
        grouped = rotate(queries, rotation, shape).reshape(shape.kv_heads, -1, len(positions), shape.head_dim)
        part = grouped @ keys[:, None, begin:end].swapaxes(-1, -2) * queries.dtype.type(shape.head_dim**-0.5)
        key_positions = np.arange(begin, end)
        readable = key_positions[None, :] <= positions[:, None]
        if policy is not None:
            in_window = key_positions[None, :] > positions[:, None] - policy.window_tokens
            readable &= in_window | (key_positions[None, :] < policy.sink_tokens)
        scores.append(np.where(readable, part, -np.inf))
    weights = np.concatenate(scores, axis=-1)
    weights = np.exp(weights - weights.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    read = np.concatenate([values[:, begin:end] for begin, end, _ in parts], axis=1)
    return np.asarray((weights @ read[:, None]).reshape(shape.heads, len(positions), shape.head_dim))


class LlamaReference:
    """The model: immutable weights in `dtype`; every call gets its state from the caller."""

    def __init__(self, model: Path, dtype: type[np.float32] | type[np.float64] = np.float64) -> None:
        reader = GGUFReader(model)
        self.shape = read_shape(reader)
        self.dtype = dtype
        # GGUFReader reports dimensions fastest first; dequantize returns rows of outputs: [outputs, inputs].
        self._tensors: dict[str, Array] = {
            t.name: dequantize(t.data, t.tensor_type).astype(dtype) for t in reader.tensors
        }
        self._head = self._tensors.get("output.weight", self._tensors["token_embd.weight"])

    def extend(self, token_ids: list[int], policy: Policy, state: KvState) -> Array:
        """Appends the tokens to `state`; returns their normalised hidden rows, [tokens, width]."""
        first = state.tokens
        positions = np.arange(first, first + len(token_ids))
        if not state.keys:
            empty = np.zeros((self.shape.kv_heads, 0, self.shape.head_dim), self.dtype)
            state.keys = [empty] * self.shape.layers
            state.values = [empty] * self.shape.layers
        hidden = self._tensors["token_embd.weight"][np.asarray(token_ids)]
        for layer in range(self.shape.layers):
            hidden = hidden + self._attention(
                layer, self._norm(hidden, f"blk.{layer}.attn_norm"), positions, policy, state
            )
            hidden = hidden + self._feed_forward(layer, self._norm(hidden, f"blk.{layer}.ffn_norm"))
        return self._norm(hidden, "output_norm")

    def logprobs(self, hidden: Array) -> npt.NDArray[np.float64]:
        """Natural-log probabilities over the vocabulary of each hidden row, [rows, vocabulary]."""
        logits = (hidden @ self._head.T).astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        return np.asarray(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))

    def prompt_logprobs(self, token_ids: list[int], policy: Policy = None, num_top: int = 5) -> PromptLogprobs:
        """Log-probability of each prompt token given those before it, with the `num_top` likeliest alternatives."""
        hidden = self.extend(token_ids, policy, KvState())
        chosen: list[float | None] = [None]
        top: list[list[TopToken] | None] = [None]
        for begin in range(0, len(token_ids) - 1, LOGIT_BLOCK):
            rows = self.logprobs(hidden[begin : min(begin + LOGIT_BLOCK, len(token_ids) - 1)])
            for row, next_id in zip(rows, token_ids[begin + 1 :], strict=False):
                chosen.append(float(row[next_id]))
                top.append(top_tokens(row, num_top))
        return PromptLogprobs(chosen, top, top_tokens(self.logprobs(hidden[-1:])[0], num_top))

    def greedy(self, token_ids: list[int], policy: Policy, max_tokens: int, stop_ids: frozenset[int]) -> list[int]:
        """The likeliest continuation; ends before a stop id or after `max_tokens`."""
        state, out, pending = KvState(), list[int](), list(token_ids)
        while len(out) < max_tokens:
            next_id = int(self.logprobs(self.extend(pending, policy, state)[-1:])[0].argmax())
            if next_id in stop_ids:
                break
            out.append(next_id)
            pending = [next_id]
        return out

    def _norm(self, rows: Array, name: str) -> Array:
        """RMS norm with the named weight."""
        scale = 1.0 / np.sqrt((rows * rows).mean(axis=-1, keepdims=True) + self.shape.norm_epsilon)
        return np.asarray((rows * scale).astype(self.dtype) * self._tensors[f"{name}.weight"])

    def _feed_forward(self, layer: int, rows: Array) -> Array:
        """SwiGLU: down(silu(gate(x)) * up(x))."""
        gate = rows @ self._tensors[f"blk.{layer}.ffn_gate.weight"].T
        up = rows @ self._tensors[f"blk.{layer}.ffn_up.weight"].T
        return np.asarray((gate / (1.0 + np.exp(-gate)) * up) @ self._tensors[f"blk.{layer}.ffn_down.weight"].T)

    def _attention(self, layer: int, rows: Array, positions: Positions, policy: Policy, state: KvState) -> Array:
        """Appends the rows' keys and values to the state, then attends each row to what the policy lets it read."""
        shape = self.shape

        def project(name: str, heads: int) -> Array:
            flat = rows @ self._tensors[f"blk.{layer}.{name}.weight"].T
            return np.asarray(flat.reshape(len(positions), heads, shape.head_dim).transpose(1, 0, 2))

        queries = project("attn_q", shape.heads)
        keys = np.concatenate([state.keys[layer], rotate(project("attn_k", shape.kv_heads), positions, shape)], axis=1)
        values = np.concatenate([state.values[layer], project("attn_v", shape.kv_heads)], axis=1)
        state.keys[layer], state.values[layer] = keys, values

        out = np.empty((len(positions), shape.heads * shape.head_dim), self.dtype)
        for begin in range(0, len(positions), QUERY_BLOCK):
            block = slice(begin, min(begin + QUERY_BLOCK, len(positions)))
            mixed = attend(queries[:, block], keys, values, positions[block], policy, shape)
            out[block] = mixed.transpose(1, 0, 2).reshape(mixed.shape[1], -1)
        return np.asarray(out @ self._tensors[f"blk.{layer}.attn_output.weight"].T)


def top_tokens(logprobs: npt.NDArray[np.float64], count: int) -> list[TopToken]:
    """The `count` likeliest tokens, likeliest first; equal ones by the lower id."""
    candidates = np.argpartition(-logprobs, count)[:count] if count < len(logprobs) else np.arange(len(logprobs))
    order = np.lexsort((candidates, -logprobs[candidates]))
    return [TopToken(int(i), float(logprobs[i])) for i in candidates[order]]


def parse_window(text: str, true_positions: bool) -> WindowPolicy:
    """`S,W` to a policy."""
    sinks, window = (int(part) for part in text.split(","))
    return WindowPolicy(sinks, window, true_positions)


def main() -> int:
    """Prints the log-probabilities of one prompt."""
    parser = argparse.ArgumentParser(description="Log-probabilities of a prompt by an independent forward pass.")
    parser.add_argument("--model", type=Path, required=True, help="GGUF file of the Llama architecture")
    parser.add_argument("--prompt-tokens-file", type=Path, required=True, help="JSON array of token ids")
    parser.add_argument("--window", metavar="S,W", help="sink and window tokens; dense without it")
    parser.add_argument("--true-positions", action="store_true", help="sinks at their true distance")
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float64")
    parser.add_argument("--top", type=int, default=5, help="alternatives a position")
    parser.add_argument("--output", type=Path, help="file to write; standard output without it")
    args = parser.parse_args()
    if args.true_positions and not args.window:
        parser.error("--true-positions needs --window")
    policy = parse_window(args.window, args.true_positions) if args.window else None
    model = LlamaReference(args.model, np.float32 if args.dtype == "float32" else np.float64)
    result = model.prompt_logprobs(json.loads(args.prompt_tokens_file.read_text()), policy, args.top)
    top = [None if row is None else [asdict(token) for token in row] for row in result.top]
    text = (
        json.dumps({"logprobs": result.logprobs, "top": top, "next_top": [asdict(token) for token in result.next_top]})
        + "\n"
    )
    if args.output:
        args.output.write_text(text)
    else:
        sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
