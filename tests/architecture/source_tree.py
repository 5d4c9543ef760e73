# SPDX-License-Identifier: Apache-2.0
"""What the architecture checks share: the files of a source tree, offences, and the exit status of a check."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

EXIT_CLEAN = 0
EXIT_OFFENCES = 1
EXIT_SKIPPED = 77

CPP_SUFFIXES = (".h", ".cc", ".cu", ".cuh")
HEADER_SUFFIXES = (".h", ".cuh")

# A tree without git is walked; these hold nothing of ours.
UNTRACKED_FOLDERS = re.compile(r"^(build(-.*)?|out|__pycache__|\.git|\..*cache)$")


@dataclass(frozen=True)
class Offence:
    """One broken rule at one place."""

    path: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}"


@dataclass(frozen=True)
class SourceFile:
    """A text file of the tree; `path` is relative to the root, with forward slashes."""

    root: Path
    path: str

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rsplit("/", 1)[-1]

    def text(self) -> str:
        """The whole content."""
        return (self.root / self.path).read_text(encoding="utf-8")

    def lines(self) -> list[str]:
        """The content by lines, without their ends."""
        return self.text().splitlines()


def _tracked_paths(root: Path) -> list[str]:
    listing = subprocess.run(
        ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return [path for path in listing.split("\0") if path]


def _walked_paths(root: Path) -> list[str]:
    paths = []
    for path in root.rglob("*"):
        relative = path.relative_to(root)
        if path.is_file() and not any(UNTRACKED_FOLDERS.match(part) for part in relative.parts[:-1]):
            paths.append(relative.as_posix())
    return paths


def source_files(root: Path) -> Iterator[SourceFile]:
    """Every file that git tracks or would track; every file where there is no repository. Sorted."""
    paths = _tracked_paths(root) if (root / ".git").exists() else _walked_paths(root)
    for path in sorted(paths):
        if (root / path).is_file():
            yield SourceFile(root, path)


def cpp_files(root: Path) -> Iterator[SourceFile]:
    """Headers and sources of C++ and CUDA."""
    return (file for file in source_files(root) if file.path.endswith(CPP_SUFFIXES))


_COMMENT_OR_STRING = re.compile(
    r"""
    //[^\n]* | /\*.*?\*/                                            # comments
    | (?:u8|[uUL])?R"(?P<mark>[^()\s\\]{0,16})\(.*?\)(?P=mark)"     # raw strings
    | "(?:\\.|[^"\\\n])*"
    | (?<![0-9a-fA-F])'(?:\\.|[^'\\\n])*'                           # not the ' inside 1'000
    """,
    re.DOTALL | re.VERBOSE,
)


def without_comments_and_strings(cpp: str) -> str:
    """C++ text with comments and literals blanked, each line where it was."""
    return _COMMENT_OR_STRING.sub(lambda match: "\n" * match.group().count("\n") or " ", cpp)


def run_check(name: str, check: Callable[[Path], list[Offence]]) -> int:
    """Checks the tree named on the command line, prints each offence and returns the exit status."""
    if len(sys.argv) != 2:
        print(f"usage: {sys.argv[0]} SOURCE_ROOT", file=sys.stderr)
        return 64
    offences = check(Path(sys.argv[1]))
    for offence in offences:
        print(offence)
    print(f"{name}: {len(offences)} offences" if offences else f"{name}: clean")
    return EXIT_OFFENCES if offences else EXIT_CLEAN
