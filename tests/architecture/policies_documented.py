# SPDX-License-Identifier: Apache-2.0
"""Every attention policy of the API has a row in a table of README.md, and no row names a policy that is gone."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from source_tree import Offence, run_check

PROTO = "proto/farspan/v1/attention.proto"
README = "README.md"

# The oneof ends at a brace that stands alone: field options have braces too.
_ONEOF = re.compile(r"oneof\s+policy\s*\{(.*?)^\s*\}\s*$", re.DOTALL | re.MULTILINE)
_FIELD = re.compile(r"^\s*\w+Attention\s+(\w+)\s*=\s*\d+", re.MULTILINE)
_HEADER = re.compile(r"^\|\s*policy\s*\|", re.IGNORECASE)
_ROW = re.compile(r"^\|\s*`(\w+)[^`]*`\s*\|")


def policies(proto: str) -> list[str]:
    """The names of the oneof's fields."""
    oneof = _ONEOF.search(proto)
    if oneof is None:
        raise ValueError(f"{PROTO} has no oneof named policy")
    return _FIELD.findall(oneof[1])


def documented(readme: str) -> dict[str, int]:
    """Policies by the line of their row: the tables whose first column is headed `Policy`."""
    rows: dict[str, int] = {}
    in_table = False
    for number, line in enumerate(readme.splitlines(), start=1):
        in_table = line.startswith("|") and (in_table or _HEADER.match(line) is not None)
        row = _ROW.match(line)
        if in_table and row is not None:
            rows.setdefault(row[1], number)
    return rows


def check(root: Path) -> list[Offence]:
    """Policies without a row and rows without a policy."""
    known = policies((root / PROTO).read_text(encoding="utf-8"))
    rows = documented((root / README).read_text(encoding="utf-8"))
    missing = [
        Offence(README, 1, f"no table headed `Policy` has a row `{name}`, a policy of {PROTO}")
        for name in known
        if name not in rows
    ]
    stale = [
        Offence(README, line, f"`{name}` is no policy of {PROTO}") for name, line in rows.items() if name not in known
    ]
    return missing + stale


if __name__ == "__main__":
    sys.exit(run_check("policies_documented", check))
