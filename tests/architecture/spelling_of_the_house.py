# SPDX-License-Identifier: Apache-2.0
"""Rules of spelling that a regular expression can hold: licence lines, banned words and names, places of intrinsics."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from source_tree import (
    CPP_SUFFIXES,
    HEADER_SUFFIXES,
    Offence,
    SourceFile,
    run_check,
    source_files,
    without_comments_and_strings,
)

SPDX_SUFFIXES = (*CPP_SUFFIXES, ".proto", ".sh", ".py")
SPDX_LINE = re.compile(r"^(//|#) SPDX-License-Identifier: Apache-2\.0$")
SPDX_WITHIN_LINES = 5  # a shebang and a tool's directive may come first

INTRINSICS_FOLDER = "engine/kernels/cpu/"

# Words that say nothing of what a thing does. A private `Impl` alone is the usual name of a hidden implementation.
_VAGUE = "Manager|Helper|Helpers|Util|Utils|Impl|Base"
_VAGUE_FILE = re.compile(r"(^|_)(manager|helpers?|utils?|impl|base)\.[a-z]+$")


@dataclass(frozen=True)
class Ban:
    """A pattern that no line of the files in question may hold."""

    pattern: re.Pattern[str]
    reason: str
    applies: Callable[[SourceFile], bool]
    in_code_only: bool = True  # comments and literals may name it


def _is_cpp(file: SourceFile) -> bool:
    return file.path.endswith(CPP_SUFFIXES)


def _is_cpp_without_intrinsics(file: SourceFile) -> bool:
    return _is_cpp(file) and not file.path.startswith(INTRINSICS_FOLDER)


def _is_cpp_test(file: SourceFile) -> bool:
    return _is_cpp(file) and file.path.startswith("tests/")


def _is_cmake(file: SourceFile) -> bool:
    return file.path.endswith((".cmake", "CMakeLists.txt"))


def _is_source(file: SourceFile) -> bool:
    return file.path.endswith((*SPDX_SUFFIXES, ".cmake", "CMakeLists.txt", ".md"))


BANS: tuple[Ban, ...] = (
    Ban(re.compile(r"\bstd::w?regex\b|#\s*include\s*<regex>"), "std::regex overflows the stack on long input", _is_cpp),
    Ban(re.compile(r"\babsl::Mutex"), "use engine/base/mutex.h: absl::Mutex blinds ThreadSanitizer", _is_cpp),
    Ban(
        re.compile(r'#\s*include\s*"absl/synchronization/'),
        "use engine/base/mutex.h: absl::Mutex blinds ThreadSanitizer",
        _is_cpp,
        in_code_only=False,
    ),
    Ban(re.compile(r"#\s*include\s*<ranges>|\bstd::(ranges::)?views\b"), "clang 14 cannot read <ranges>", _is_cpp),
    Ban(re.compile(r"\busing\s+namespace\b"), "name what is used", _is_cpp),
    Ban(re.compile(r"\bthrow\b"), "errors are values here: absl::Status", _is_cpp),
    Ban(
        re.compile(rf"\b(class|struct|enum|union|concept|using)\s+\w+({_VAGUE})\b(?!\s*::)"),
        "name what it does, not Manager, Helper, Util, Impl or Base",
        _is_cpp,
    ),
    Ban(
        re.compile(r"#\s*include\s*<(\w*intrin|arm_neon|arm_sve)\.h>"),
        f"intrinsics live in {INTRINSICS_FOLDER}",
        _is_cpp_without_intrinsics,
    ),
    Ban(re.compile(r"\b(sleep_for|sleep_until|SleepFor|usleep|nanosleep)\b"), "tests control time", _is_cpp_test),
    Ban(re.compile(r"\bfile\s*\(\s*GLOB", re.IGNORECASE), "list sources one by one", _is_cmake, in_code_only=False),
    # In two pieces, so that this file may hold the rule.
    Ban(re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X)\b"), "finish it or leave it out", _is_source, in_code_only=False),
)


def _has_spdx(lines: list[str]) -> bool:
    return any(SPDX_LINE.match(line) for line in lines[:SPDX_WITHIN_LINES])


def _offences_of(file: SourceFile) -> list[Offence]:
    lines = file.lines()
    offences = []
    if file.path.endswith(SPDX_SUFFIXES) and not _has_spdx(lines):
        offences.append(Offence(file.path, 1, "has no line `SPDX-License-Identifier: Apache-2.0` at its start"))
    if file.path.endswith(HEADER_SUFFIXES) and "#pragma once" not in lines:
        offences.append(Offence(file.path, 1, "has no line `#pragma once`"))
    if _is_cpp(file) and _VAGUE_FILE.search(file.name):
        offences.append(Offence(file.path, 1, "name the file after what it holds"))
    bans = [ban for ban in BANS if ban.applies(file)]
    code = without_comments_and_strings(file.text()).splitlines() if _is_cpp(file) else lines
    for ban in bans:
        for number, line in enumerate(code if ban.in_code_only else lines, start=1):
            if ban.pattern.search(line):
                offences.append(Offence(file.path, number, f"`{line.strip()}`: {ban.reason}"))
    return offences


def check(root: Path) -> list[Offence]:
    """Every line and name that breaks a rule."""
    return [offence for file in source_files(root) if _is_source(file) for offence in _offences_of(file)]


if __name__ == "__main__":
    sys.exit(run_check("spelling_of_the_house", check))
