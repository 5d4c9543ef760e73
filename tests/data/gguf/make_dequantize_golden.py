#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes dequantize_golden.txt: random rows of every tensor type that Farspan reads and their float32 values.

The values come from the PyPI package `gguf` (gguf.quants), an implementation that shares no code with ours. Usage:

    pip install gguf==0.19.0 && python3 tests/data/gguf/make_dequantize_golden.py

One line a row: the type's name, the row's bytes in hexadecimal, the values as little-endian float32 in hexadecimal.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

SEED = 20260101
ROWS = 3
BLOCKS_PER_ROW = 2
OUT = Path(__file__).with_name("dequantize_golden.txt")

# Byte offsets of the float16 fields of each block: random bytes there could be NaN, which files must not hold.
F16_FIELDS: dict[GGMLQuantizationType, list[int]] = {
    GGMLQuantizationType.Q4_0: [0],
    GGMLQuantizationType.Q4_1: [0, 2],
    GGMLQuantizationType.Q5_0: [0],
    GGMLQuantizationType.Q5_1: [0, 2],
    GGMLQuantizationType.Q8_0: [0],
    GGMLQuantizationType.Q4_K: [0, 2],
    GGMLQuantizationType.Q5_K: [0, 2],
    GGMLQuantizationType.Q6_K: [208],
}


def random_row(kind: GGMLQuantizationType, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Random bytes with finite scales, subnormal and negative ones among them."""
    if kind == GGMLQuantizationType.F32:
        return rng.standard_normal(64).astype("<f4").view(np.uint8)
    if kind == GGMLQuantizationType.F16:
        # Magnitudes down to 2^-24, so that subnormals occur.
        values = rng.standard_normal(64) * np.exp2(rng.integers(-22, 8, 64))
        return values.astype("<f2").view(np.uint8)
    if kind == GGMLQuantizationType.BF16:
        bits = rng.standard_normal(64).astype("<f4").view("<u4") >> 16
        return bits.astype("<u2").view(np.uint8)
    _, block_bytes = GGML_QUANT_SIZES[kind]
    row = rng.integers(0, 256, (BLOCKS_PER_ROW, block_bytes), dtype=np.uint8)
    for offset in F16_FIELDS[kind]:
        scales = rng.standard_normal(BLOCKS_PER_ROW) * np.exp2(rng.integers(-18, 2, BLOCKS_PER_ROW))
        row[:, offset : offset + 2] = scales.astype("<f2").reshape(-1, 1).view(np.uint8)
    return row.reshape(-1)


def main() -> None:
    """Writes the golden file beside this script."""
    rng = np.random.default_rng(SEED)
    lines: list[str] = []
    kinds = [GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16, *F16_FIELDS]
    for kind in kinds:
        for _ in range(ROWS):
            row = random_row(kind, rng)
            values = dequantize(row, kind).astype("<f4")
            lines.append(f"{kind.name} {row.tobytes().hex()} {values.tobytes().hex()}")
    OUT.write_text("\n".join(lines) + "\n", encoding="ascii")


if __name__ == "__main__":
    main()
