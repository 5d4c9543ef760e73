# SPDX-License-Identifier: Apache-2.0
"""Files and functions stay small enough to be read at once."""

from __future__ import annotations

import ast
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from source_tree import CPP_SUFFIXES, Offence, run_check, source_files, without_comments_and_strings

MAX_FILE_LINES = 400
MAX_KERNEL_FILE_LINES = 600
MAX_FUNCTION_LINES = 60

CHECKED_SUFFIXES = (*CPP_SUFFIXES, ".py", ".sh", ".proto", ".cmake", "CMakeLists.txt")

_TOKEN = re.compile(r"[{};()]|[^{};()]+")
_SCOPE = re.compile(r"^\s*(?:inline\s+)?namespace\b|^\s*extern\s*$")
_TYPE = re.compile(r"\b(?:class|struct|union|enum)\b")


@dataclass(frozen=True)
class Function:
    """A function of some source and the lines that it takes, from its signature to its closing brace."""

    signature: str
    first_line: int
    last_line: int

    @property
    def num_lines(self) -> int:
        """Both ends included."""
        return self.last_line - self.first_line + 1


def _is_function(header: str) -> bool:
    before_arguments, parenthesis, _ = header.partition("(")
    assigns = "=" in before_arguments and "operator" not in before_arguments
    is_type = _TYPE.search(before_arguments) is not None
    return bool(parenthesis) and not assigns and not is_type and _SCOPE.match(header) is None


def cpp_functions(source: str) -> list[Function]:
    """Functions by brace matching; what is nested in one, lambdas and local classes included, counts as part of it."""
    code = re.sub(
        r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*",
        lambda match: "\n" * match.group().count("\n"),
        without_comments_and_strings(source),
        flags=re.MULTILINE,
    )
    functions = []
    stack: list[tuple[str, int] | None] = []  # of open braces; None for one that opens no function
    header, header_line, line, parentheses = "", 1, 1, 0
    for token in _TOKEN.findall(code):
        if token == "{":
            inside = any(entry is not None for entry in stack)
            stack.append((header, header_line) if not inside and _is_function(header) else None)
            header = ""
        elif token == "}":
            opened = stack.pop() if stack else None
            if opened is not None:
                functions.append(Function(" ".join(opened[0].split()), opened[1], line))
            header = ""
        elif token == ";" and parentheses == 0:
            header = ""
        else:
            parentheses = max(0, parentheses + {"(": 1, ")": -1}.get(token, 0))
            if not header.strip():
                header_line = line + token[: len(token) - len(token.lstrip())].count("\n")
            header += token
        if token in "{}":
            parentheses = 0
        line += token.count("\n")
    return functions


def python_functions(source: str) -> list[Function]:
    """Functions and methods; a nested one counts alone and as part of the outer one."""
    return [
        Function(node.name, node.lineno, node.end_lineno or node.lineno)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def shell_functions(source: str) -> list[Function]:
    """Functions whose closing brace stands in the first column, as ours do."""
    functions = []
    name, first_line = None, 0
    for number, line in enumerate(source.splitlines(), start=1):
        opening = re.match(r"^([\w-]+)\s*\(\)\s*\{", line)
        if opening is not None:
            name, first_line = opening[1], number
        if name is not None and (line.startswith("}") or (opening is not None and line.rstrip().endswith("}"))):
            functions.append(Function(name, first_line, number))
            name = None
    return functions


def _functions(path: str, source: str) -> list[Function]:
    if path.endswith(CPP_SUFFIXES):
        return cpp_functions(source)
    if path.endswith(".py"):
        return python_functions(source)
    return shell_functions(source) if path.endswith(".sh") else []


def check(root: Path) -> list[Offence]:
    """Files and functions over their limits."""
    offences = []
    for file in source_files(root):
        if not file.path.endswith(CHECKED_SUFFIXES):
            continue
        source = file.text()
        limit = MAX_KERNEL_FILE_LINES if file.path.startswith("engine/kernels/") else MAX_FILE_LINES
        num_lines = len(source.splitlines())
        if num_lines > limit:
            offences.append(Offence(file.path, num_lines, f"has {num_lines} lines, at most {limit} are allowed"))
        for function in _functions(file.path, source):
            if function.num_lines > MAX_FUNCTION_LINES:
                message = f"takes {function.num_lines} lines, at most {MAX_FUNCTION_LINES} are allowed"
                offences.append(Offence(file.path, function.first_line, f"`{function.signature}` {message}"))
    return offences


if __name__ == "__main__":
    sys.exit(run_check("sizes", check))
