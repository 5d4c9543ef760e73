# SPDX-License-Identifier: Apache-2.0
"""Attention kernels of this project beside those of PyTorch and FlashAttention-3, in one run on one GPU.

    python3 tests/bench/peers.py [--prefill farspan-bench-cuda-hopper-prefill] [--decode farspan-bench-cuda-decode]

Both programs are optional, and so is FlashAttention-3: it is measured where a package `fa3` with
`flash_attn_varlen_func` and `get_scheduler_metadata` can be imported. bf16, 32 query heads, 8 KV heads, head_dim 128.
Prefill is causal, counted as half; cold launches, median. Each length is measured here before and after the peers, and
the mean stands, since a warm chip is slower. Decode reads pages in random order; PyTorch, which has none, reads plain
tensors. `graph` is a captured run of launches over different pages, by launch.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import statistics
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

try:
    from fa3 import flash_attn_varlen_func, get_scheduler_metadata
except ImportError:
    flash_attn_varlen_func = get_scheduler_metadata = None

HEADS, KV_HEADS, HEAD_DIM, PAGE_TOKENS = 32, 8, 128, 64
FLUSH_BYTES = 256 << 20
Launch = Callable[[int], object]


@dataclass(frozen=True)
class DecodeShape:
    """Rows that each read as many tokens of their own."""

    rows: int
    tokens: int

    @property
    def name(self) -> str:
        """As the project's program calls it."""
        return f"32/8 d128 B{self.rows} x {self.tokens // 1024}k"

    @property
    def read_bytes(self) -> int:
        """Of keys and values."""
        return self.rows * self.tokens * KV_HEADS * HEAD_DIM * 2 * 2

    @property
    def sets(self) -> int:
        """Copies of the cache, so that no launch finds another's in the L2 cache."""
        return max(2, -(-300_000_000 // self.read_bytes))


DECODE_SHAPES = [DecodeShape(16, 32768), DecodeShape(64, 8192), DecodeShape(1, 8192), DecodeShape(1, 131072)]


def randn(*shape: int) -> torch.Tensor:
    """Normal bf16 on the GPU."""
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)


def cold_ms(launch: Launch, repeats: int) -> float:
    """The median of single launches after the L2 cache was overwritten."""
    flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")
    times = []
    for i in range(repeats + 1):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        flush.fill_(i % 256)
        begin.record()
        launch(i)
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times[1:])


def graph_ms(launch: Launch, launches: int) -> float:
    """Time by launch of many that are captured in one graph."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for i in range(3):
            launch(i)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(launches):
            launch(i)
    times = []
    for _ in range(6):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / launches)
    return statistics.median(times[1:])


def sdpa(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool) -> torch.Tensor:
    """PyTorch's attention through cuDNN."""
    with sdpa_kernel([SDPBackend.CUDNN_ATTENTION]):
        return scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)


def measured(measure: Callable[[], float]) -> float | None:
    """None, with the reason printed, where the peer does not run here."""
    try:
        return measure()
    except (RuntimeError, AssertionError, TypeError) as error:
        print(f"not measured: {str(error).splitlines()[0][:160]}", flush=True)
        return None


def prefill_tflops(tokens: int, milliseconds: float) -> float:
    """Causal operations, counted as half."""
    return 2 * HEADS * HEAD_DIM * tokens * (tokens + 1) / milliseconds / 1e9


def our_prefill(program: Path, tokens: int, repeats: int) -> float:
    """TFLOP/s as the program says."""
    text = subprocess.run(
        [program, "causal", str(tokens), str(repeats)], check=True, capture_output=True, text=True
    ).stdout
    found = re.search(r"([\d.]+) TFLOP/s", text)
    if found is None:
        raise ValueError(f"no rate in {text!r}")
    return float(found.group(1))


def fa3_prefill_ms(tokens: int, repeats: int) -> float:
    """FlashAttention-3 on one sequence."""
    q, k, v = randn(tokens, HEADS, HEAD_DIM), randn(tokens, KV_HEADS, HEAD_DIM), randn(tokens, KV_HEADS, HEAD_DIM)
    bounds = torch.tensor([0, tokens], dtype=torch.int32, device="cuda")
    arguments = {"max_seqlen_q": tokens, "cu_seqlens_q": bounds, "max_seqlen_k": tokens, "cu_seqlens_k": bounds}
    return cold_ms(lambda _: flash_attn_varlen_func(q, k, v, **arguments, causal=True, fa_version=3), repeats)


def cudnn_prefill_ms(tokens: int, repeats: int) -> float:
    """cuDNN on one sequence."""
    q = randn(1, HEADS, tokens, HEAD_DIM)
    k, v = randn(1, KV_HEADS, tokens, HEAD_DIM), randn(1, KV_HEADS, tokens, HEAD_DIM)
    return cold_ms(lambda _: sdpa(q, k, v, causal=True), repeats)


def compare_prefill(program: Path | None) -> None:
    """A line a length, TFLOP/s."""
    print("| causal prefill, TFLOP/s | here | FlashAttention-3 | ratio | cuDNN | ratio |\n|---|---|---|---|---|---|")
    for tokens, repeats in ((8192, 15), (32768, 7), (131072, 3)):
        ours = [our_prefill(program, tokens, repeats)] if program else []
        peers: list[float | None] = []
        for measure in (fa3_prefill_ms if flash_attn_varlen_func else None, cudnn_prefill_ms):
            milliseconds = measured(partial(measure, tokens, repeats)) if measure else None
            peers.append(prefill_tflops(tokens, milliseconds) if milliseconds else None)
        if program:
            ours.append(our_prefill(program, tokens, repeats))
        mine = statistics.mean(ours) if ours else None
        cells = [f"{tokens // 1024}k", " and ".join(f"{rate:.0f}" for rate in ours) or "–"]
        for peer in peers:
            cells += [f"{peer:.0f}" if peer else "–", f"{mine / peer:.3f}" if mine and peer else "–"]
        print("| " + " | ".join(cells) + " |", flush=True)


def fa3_decode(shape: DecodeShape) -> Launch:
    """FlashAttention-3 over pages of as many tokens as ours, its metadata made beforehand."""
    pages = shape.rows * shape.tokens // PAGE_TOKENS
    q, out = randn(shape.rows, HEADS, HEAD_DIM), randn(shape.rows, HEADS, HEAD_DIM)
    k = randn(shape.sets * pages, PAGE_TOKENS, KV_HEADS, HEAD_DIM)
    v = randn(shape.sets * pages, PAGE_TOKENS, KV_HEADS, HEAD_DIM)
    order = torch.randperm(shape.sets * pages, device="cuda", dtype=torch.int32)
    tables = list(order.view(shape.sets, shape.rows, -1))
    bounds = torch.arange(shape.rows + 1, dtype=torch.int32, device="cuda")
    lengths = torch.full((shape.rows,), shape.tokens, dtype=torch.int32, device="cuda")
    metadata = get_scheduler_metadata(
        shape.rows, 1, shape.tokens, HEADS, KV_HEADS, HEAD_DIM, lengths, torch.bfloat16,
        cu_seqlens_q=bounds, page_size=PAGE_TOKENS, causal=True,
    )  # fmt: skip

    def launch(i: int) -> None:
        flash_attn_varlen_func(
            q, k, v, max_seqlen_q=1, cu_seqlens_q=bounds, max_seqlen_k=shape.tokens, seqused_k=lengths, causal=True,
            block_table=tables[i % shape.sets], out=out, scheduler_metadata=metadata, fa_version=3,
        )  # fmt: skip

    return launch


def cudnn_decode(shape: DecodeShape) -> Launch:
    """cuDNN over tensors without pages."""
    q = randn(shape.rows, HEADS, 1, HEAD_DIM)
    k = randn(shape.sets, shape.rows, KV_HEADS, shape.tokens, HEAD_DIM)
    v = randn(shape.sets, shape.rows, KV_HEADS, shape.tokens, HEAD_DIM)
    return lambda i: sdpa(q, k[i % shape.sets], v[i % shape.sets], causal=False)


def our_decode(program: Path) -> dict[str, tuple[float, float]]:
    """By shape the microseconds of a cold launch and in a graph, pages of PAGE_TOKENS."""
    text = subprocess.run([program, "time"], check=True, capture_output=True, text=True).stdout
    pattern = rf"^(.*?)\s+page {PAGE_TOKENS}\s+cold\s+([\d.]+) us.*graph\s+([\d.]+) us"
    return {name: (float(cold), float(graph)) for name, cold, graph in re.findall(pattern, text, re.MULTILINE)}


def compare_decode(program: Path | None) -> None:
    """A line a shape, microseconds of a cold launch and in a graph."""
    ours = our_decode(program) if program else {}
    print(
        "| decode, µs cold / in a graph | here | FlashAttention-3 | cuDNN | FlashAttention-3 / here |\n|---|---|---|---|---|"
    )
    for shape in DECODE_SHAPES:
        launches = min(64, max(4, 3_000_000_000 // shape.read_bytes))
        cells = [f"{shape.rows} row{'s' if shape.rows > 1 else ''} of {shape.tokens // 1024}k"]
        mine = ours.get(shape.name)
        cells.append(f"{mine[0]:.1f} / {mine[1]:.1f}" if mine else "–")
        graphs: list[float | None] = []
        for make in (fa3_decode if flash_attn_varlen_func else None, cudnn_decode):
            launch: Launch | None = None
            with contextlib.suppress(torch.OutOfMemoryError):
                launch = make(shape) if make else None
            cold = measured(partial(cold_ms, launch, 15)) if launch else None
            graph = measured(partial(graph_ms, launch, launches)) if launch else None
            graphs.append(graph)
            cells.append(" / ".join(f"{1000 * time:.1f}" if time else "–" for time in (cold, graph)))
        cells.append(f"{1000 * graphs[0] / mine[1]:.2f}" if graphs[0] and mine else "–")
        print("| " + " | ".join(cells) + " |", flush=True)


def copy_rate() -> float:
    """GB/s read and written by a large copy."""
    source, target = (torch.empty(1 << 30, dtype=torch.uint8, device="cuda") for _ in range(2))
    return 2 * source.numel() / cold_ms(lambda _: target.copy_(source), 7) / 1e6


def main() -> None:
    """Prints tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prefill", type=Path, help="farspan-bench-cuda-hopper-prefill")
    parser.add_argument("--decode", type=Path, help="farspan-bench-cuda-decode")
    options = parser.parse_args()
    prefill, decode = (path and path.resolve() for path in (options.prefill, options.decode))
    fa3 = "FlashAttention-3" if flash_attn_varlen_func else "no FlashAttention-3"
    print(f"{torch.cuda.get_device_name()}; PyTorch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}, {fa3}")
    print(f"copy {copy_rate():.0f} GB/s\n", flush=True)
    compare_prefill(prefill)
    print()
    compare_decode(decode)


if __name__ == "__main__":
    main()
