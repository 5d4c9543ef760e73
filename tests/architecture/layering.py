# SPDX-License-Identifier: Apache-2.0
"""Arrows point down: what each folder may include of ours and of outside libraries, and that nothing else is included.

The table is the rule. A file belongs to the layer with the longest matching prefix, so a single file can have less or
more than its folder. Only direct includes are checked; standard and POSIX headers are free.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

from source_tree import Offence, SourceFile, cpp_files, run_check

# Outside libraries by what their includes look like; the first match names it.
LIBRARIES: tuple[tuple[str, str], ...] = (
    ("grpc", r"(grpc|grpcpp|grpc\+\+)/|.*\.grpc\.pb\.h$"),
    ("protobuf", r"google/protobuf/|.*\.pb\.h$"),
    ("abseil", r"absl/"),
    ("spdlog", r"spdlog/"),
    ("prometheus", r"prometheus/"),
    ("boost", r"boost/"),
    ("json", r"nlohmann/"),
    ("icu", r"unicode/"),
    ("openssl", r"openssl/"),
    ("cuda", r"(cuda|cublas|cub/|nccl|cooperative_groups)"),
    ("googletest", r"(gtest|gmock)/"),
    ("benchmark", r"benchmark/"),
)

# Messages of the health interface carry gRPC's name but none of its code.
_MESSAGES = re.compile(r"^grpc/health/v1/health\.pb\.h$")


@dataclass(frozen=True)
class Layer:
    """Files of `files` may include ours of `ours`, and `libraries`.

    Both are prefixes of paths; one that ends in `/*` stands for the files of that folder without its subfolders.
    """

    files: tuple[str, ...]
    ours: tuple[str, ...]
    libraries: tuple[str, ...]


BASE = "engine/base/"
KERNEL_ARGUMENTS = "engine/kernels/args.h"
DRAW_ARGUMENTS = "engine/kernels/draw_args.h"
WEIGHT_TILES = "engine/kernels/weight_tiles.h"
WEIGHT_PANELS = "engine/kernels/weight_panels.h"
POLICY_INTERFACE = ("engine/attention/plan.h", "engine/attention/policy.h")
REQUEST = ("engine/request.h", "engine/output.h", "engine/request_handle.")
BELOW_ENGINE = (
    BASE,
    "engine/kernels/args.h",
    "engine/backend/",
    "engine/attention/",
    "engine/kv/",
    "engine/model/",
    "engine/sampling/",
    "engine/sched/",
    "engine/metrics/",
    *REQUEST,
)

LAYERS: tuple[Layer, ...] = (
    Layer((BASE,), (BASE,), ("abseil",)),
    Layer(("engine/base/log.",), (BASE,), ("abseil", "spdlog")),
    Layer(("engine/kernels/",), ("engine/kernels/",), ()),
    Layer(
        ("engine/kernels/cuda/",),
        ("engine/kernels/cuda/", KERNEL_ARGUMENTS, DRAW_ARGUMENTS, WEIGHT_TILES, "engine/kernels/random_block.h"),
        ("cuda",),
    ),
    Layer(("engine/attention/",), ("engine/attention/", BASE), ("abseil", "protobuf")),
    Layer(POLICY_INTERFACE, (*POLICY_INTERFACE, BASE), ("abseil",)),
    Layer(("engine/backend/",), ("engine/backend/", BASE, "engine/kernels/", "engine/attention/plan.h"), ("abseil",)),
    Layer(
        ("engine/backend/cuda_",),
        ("engine/backend/", BASE, "engine/kernels/", "engine/attention/plan.h"),
        ("abseil", "cuda"),
    ),
    Layer(
        ("engine/kv/",),
        (
            "engine/kv/block_table.h",
            "engine/kv/page_pool.h",
            "engine/kv/prefix_index.h",
            "engine/kv/prefix_key.h",
            BASE,
        ),
        ("abseil", "openssl"),
    ),
    Layer(("engine/kv/kv_cache.",), ("engine/kv/kv_cache.h", BASE, "engine/backend/", KERNEL_ARGUMENTS), ("abseil",)),
    Layer(
        ("engine/model/",),
        (
            "engine/model/",
            BASE,
            "engine/backend/",
            KERNEL_ARGUMENTS,
            DRAW_ARGUMENTS,
            "engine/kernels/random_block.h",
            WEIGHT_PANELS,
            WEIGHT_TILES,
            "engine/kv/kv_cache.h",
            "engine/attention/plan.h",
            "engine/sampling/",
        ),
        ("abseil",),
    ),
    Layer(("engine/model/hf_config.",), ("engine/model/", BASE), ("abseil", "json")),
    # A GGUF file carries its tokenizer's vocabulary; the model itself never sees text.
    Layer(("engine/model/gguf_vocabulary.",), ("engine/model/gguf", BASE, "engine/text/"), ("abseil",)),
    Layer(("engine/sampling/",), ("engine/sampling/", BASE), ("abseil",)),
    Layer(("engine/text/",), ("engine/text/", BASE), ("abseil", "icu")),
    Layer(("engine/metrics/",), ("engine/metrics/", BASE, *REQUEST), ("abseil",)),
    Layer(
        REQUEST,
        (*REQUEST, BASE, *POLICY_INTERFACE, "engine/sampling/sampling_params.h", "engine/sampling/logprobs.h"),
        ("abseil",),
    ),
    Layer(
        ("engine/sched/",),
        (
            "engine/sched/",
            BASE,
            *REQUEST,
            *POLICY_INTERFACE,
            "engine/kv/block_table.h",
            "engine/kv/page_pool.h",
            "engine/kv/prefix_index.h",
            "engine/kv/prefix_key.h",
            "engine/sampling/token_counts.h",
        ),
        ("abseil",),
    ),
    Layer(
        ("engine/*",),
        ("engine/*", *BELOW_ENGINE),
        ("abseil",),
    ),
    Layer(
        ("server/",),
        ("server/", "engine/*", "engine/text/", *BELOW_ENGINE),
        ("abseil", "spdlog", "protobuf", "grpc", "prometheus", "boost", "json", "openssl"),
    ),
    Layer(("clients/",), ("clients/",), ("abseil", "protobuf", "grpc", "json")),
    Layer(("clients/scrape/",), ("clients/scrape/",), ("abseil", "boost")),
    Layer(("tests/",), ("tests/", "engine/", "server/", "clients/"), tuple(name for name, _ in LIBRARIES)),
)

_INCLUDE = re.compile(r'^\s*#\s*include\s*(?:"([^"]+)"|<([^>]+)>)')


def _matches(path: str, pattern: str) -> bool:
    if pattern.endswith("/*"):
        folder = pattern[:-1]
        return path.startswith(folder) and "/" not in path[len(folder) :]
    return path.startswith(pattern)


def layer_of(path: str) -> Layer | None:
    """The layer with the longest pattern that matches `path`."""
    matches = [(len(pattern), layer) for layer in LAYERS for pattern in layer.files if _matches(path, pattern)]
    return max(matches, key=lambda match: match[0])[1] if matches else None


def library_of(include: str) -> str | None:
    """Which outside library an include belongs to."""
    if _MESSAGES.match(include):
        return "protobuf"
    return next((name for name, pattern in LIBRARIES if re.match(pattern, include)), None)


def _refusal(file: SourceFile, layer: Layer, include: str, quoted: bool) -> str | None:
    if quoted and (file.root / include).is_file():
        allowed = any(_matches(include, pattern) for pattern in layer.ours)
        return None if allowed else f"may not include {include}"
    library = library_of(include)
    if library is not None:
        return None if library in layer.libraries else f"may not see {library} ({include})"
    if quoted:
        return f'includes "{include}", which is neither ours from the root nor of a known library'
    return None


def check(root: Path) -> list[Offence]:
    """Every include that the table does not allow."""
    offences = []
    for file in cpp_files(root):
        layer = layer_of(file.path)
        if layer is None:
            offences.append(Offence(file.path, 1, "belongs to no layer of tests/architecture/layering.py"))
            continue
        for number, line in enumerate(file.lines(), start=1):
            match = _INCLUDE.match(line)
            if match is None:
                continue
            refusal = _refusal(file, layer, match[1] or match[2], match[1] is not None)
            if refusal is not None:
                offences.append(Offence(file.path, number, refusal))
    return offences


if __name__ == "__main__":
    sys.exit(run_check("layering", check))
