# SPDX-License-Identifier: Apache-2.0
"""How the goldens are written and read: see tests/data/reference/README.md for their schema."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

SCHEMA_VERSION = 1

Json = dict[str, Any]


def model_identity(model: Path) -> Json:
    """File name, size and SHA-256: a golden says which weights it speaks of."""
    digest = hashlib.sha256()
    with model.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return {"file": model.name, "bytes": model.stat().st_size, "sha256": digest.hexdigest()}


def package_versions(*names: str) -> Json:
    """Installed versions of the named Python packages."""
    return {name: version(name) for name in names}


def rounded(value: float | None) -> float | None:
    """Six decimals: a thousandth of the tightest tolerance that is tested."""
    return None if value is None else round(value, 6)


def write_golden(path: Path, golden: Json) -> None:
    """Compact JSON with one prompt's numbers a line, so that a change shows as the lines that changed."""
    path.write_text(_layout(golden, 0) + "\n", encoding="utf-8")


def read_golden(path: Path) -> Json:
    """Reads a golden of this schema version."""
    golden: Json = json.loads(path.read_text(encoding="utf-8"))
    if golden.get("schema_version") != SCHEMA_VERSION:
        raise ValueError(f"{path.name}: schema_version must be {SCHEMA_VERSION}, got {golden.get('schema_version')}")
    return golden


def _layout(value: Any, depth: int) -> str:  # noqa: ANN401 - any JSON value
    """Objects and lists of objects are spread over lines down to the fields of a run; the rest stays on one line."""
    if depth < 6 and isinstance(value, dict):
        items = [f"{json.dumps(key)}: {_layout(item, depth + 1)}" for key, item in value.items()]
        return "{\n" + ",\n".join("  " * (depth + 1) + item for item in items) + "\n" + "  " * depth + "}"
    if depth < 6 and isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        items = [_layout(item, depth + 1) for item in value]
        return "[\n" + ",\n".join("  " * (depth + 1) + item for item in items) + "\n" + "  " * depth + "]"
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True)
