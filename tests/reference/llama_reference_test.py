# SPDX-License-Identifier: Apache-2.0
"""Checks of the reference itself that need no model: its attention against a key-by-key transcription of the rules."""

from __future__ import annotations

import cmath
import unittest

import numpy as np
from llama_reference import Array, LlamaShape, Policy, Positions, WindowPolicy, attend, rotate

SHAPE = LlamaShape(
    layers=1, width=32, heads=4, kv_heads=2, head_dim=8, rope_dims=8, rope_base=10000.0, norm_epsilon=1e-5
)
TOKENS = 50


def distance(query: int, key: int, policy: Policy) -> int | None:
    """How far before the query the key lies for RoPE; None if the query does not read it."""
    if key > query:
        return None
    if policy is None or key > query - policy.window_tokens:
        return query - key
    if key >= policy.sink_tokens:
        return None
    return query - key if policy.true_positions else min(query, policy.sink_tokens + policy.window_tokens - 1) - key


def score(query: Array, key: Array, apart: int) -> float:
    """The rotary score of one pair at a distance: Re(sum q * conj(k) * e^(i * apart * frequency))."""
    total = 0.0
    for pair in range(SHAPE.rope_dims // 2):
        angle = apart * SHAPE.rope_base ** (-2.0 * pair / SHAPE.rope_dims)
        q = complex(query[2 * pair], query[2 * pair + 1])
        k = complex(key[2 * pair], key[2 * pair + 1])
        total += (q * k.conjugate() * cmath.exp(1j * angle)).real
    return float(total / SHAPE.head_dim**0.5)


def attend_slowly(queries: Array, keys: Array, values: Array, positions: Positions, policy: Policy) -> Array:
    """The definition, one key at a time; keys are not rotated here."""
    out = np.zeros((SHAPE.heads, len(positions), SHAPE.head_dim))
    for head in range(SHAPE.heads):
        group = head // (SHAPE.heads // SHAPE.kv_heads)
        for row, query in enumerate(positions):
            total = 0.0
            for key in range(TOKENS):
                apart = distance(int(query), key, policy)
                if apart is not None:
                    weight = np.exp(score(queries[head, row], keys[group, key], apart))
                    out[head, row] += weight * values[group, key]
                    total += weight
            out[head, row] /= total
    return out


class AttendTest(unittest.TestCase):
    """`attend` reads exactly the keys, at exactly the distances, that the policy names."""

    def test_matches_the_definition(self) -> None:
        """All rows at once, and a late block of rows alone, under every kind of policy."""
        rng = np.random.default_rng(7)
        queries = rng.standard_normal((SHAPE.heads, TOKENS, SHAPE.head_dim))
        keys, values = rng.standard_normal((2, SHAPE.kv_heads, TOKENS, SHAPE.head_dim))
        rotated_keys = rotate(keys, np.arange(TOKENS), SHAPE)
        policies: list[Policy] = [
            None,
            WindowPolicy(4, 8),
            WindowPolicy(4, 8, true_positions=True),
            WindowPolicy(0, 5),
            WindowPolicy(3, 1),
            WindowPolicy(12, 4),
            WindowPolicy(4, TOKENS),
        ]
        for policy in policies:
            for begin in (0, 1, TOKENS - 13, TOKENS - 1):
                with self.subTest(policy=policy, begin=begin):
                    positions = np.arange(begin, TOKENS)
                    fast = attend(queries[:, begin:], rotated_keys, values, positions, policy, SHAPE)
                    slow = attend_slowly(queries[:, begin:], keys, values, positions, policy)
                    np.testing.assert_allclose(fast, slow, rtol=1e-10, atol=1e-12)

    def test_a_window_that_covers_the_context_is_dense(self) -> None:
        """No key falls out, so nothing may differ beyond the order of sums."""
        rng = np.random.default_rng(8)
        queries = rng.standard_normal((SHAPE.heads, TOKENS, SHAPE.head_dim))
        keys, values = rng.standard_normal((2, SHAPE.kv_heads, TOKENS, SHAPE.head_dim))
        positions = np.arange(TOKENS)
        dense = attend(queries, keys, values, positions, None, SHAPE)
        window = attend(queries, keys, values, positions, WindowPolicy(4, TOKENS), SHAPE)
        np.testing.assert_allclose(window, dense, rtol=1e-12, atol=1e-13)


if __name__ == "__main__":
    unittest.main()
