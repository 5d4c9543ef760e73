# SPDX-License-Identifier: Apache-2.0
"""C++ and CUDA sources are as clang-format 14 leaves them; skipped where no clang-format 14 is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from source_tree import EXIT_SKIPPED, Offence, cpp_files, run_check

VERSION = "14"  # others break lines elsewhere
_COMPLAINT = re.compile(r"^(?P<path>[^:\n]+):(?P<line>\d+):\d+: error: (?P<message>.*?)(?: \[-W.*\])?$", re.MULTILINE)


def clang_format() -> str | None:
    """The binary of the version that the tree is formatted with."""
    for name in (f"clang-format-{VERSION}", "clang-format"):
        path = shutil.which(name)
        if path is None:
            continue
        version = subprocess.run([path, "--version"], check=True, capture_output=True, text=True).stdout
        if re.search(rf"version {VERSION}\.", version):
            return path
    return None


def check(root: Path) -> list[Offence]:
    """The first line of every file that clang-format would change. It must be installed."""
    binary = clang_format()
    if binary is None:
        raise FileNotFoundError(f"no clang-format {VERSION}")
    paths = [file.path for file in cpp_files(root)]
    if not paths:
        return []
    command = [binary, "--dry-run", "--Werror", "--style=file", "--ferror-limit=1", *paths]
    result = subprocess.run(command, cwd=root, check=False, capture_output=True, text=True)
    offences = [
        Offence(match["path"], int(match["line"]), match["message"]) for match in _COMPLAINT.finditer(result.stderr)
    ]
    if result.returncode != 0 and not offences:
        raise RuntimeError(f"clang-format failed: {result.stderr[-2000:]}")
    return offences


if __name__ == "__main__":
    if clang_format() is None:
        print(f"skipped: no clang-format {VERSION} is installed")
        sys.exit(EXIT_SKIPPED)
    sys.exit(run_check("format", check))
