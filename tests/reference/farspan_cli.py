# SPDX-License-Identifier: Apache-2.0
"""Drives the `farspan` command: one request, its JSON answer."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from argparse import ArgumentParser
from dataclasses import dataclass
from pathlib import Path

from golden_io import Json

REQUEST_TIMEOUT_SECONDS = 1800
"""The portable kernels need minutes for a prompt of 4000 tokens."""


@dataclass(frozen=True)
class FarspanCli:
    """A command and the server that it talks to."""

    farspan: Path
    server: str

    def generate(self, token_ids: list[int], attention: str, max_tokens: int, *flags: str) -> Json:
        """Greedy continuation of a prompt given as ids; a failed command ends this process with what it said."""
        with tempfile.NamedTemporaryFile("w", suffix=".json") as prompt:
            json.dump(token_ids, prompt)
            prompt.flush()
            command = [str(self.farspan), "generate", "--server", self.server, "--prompt-tokens-file", prompt.name]
            command += ["--attention", attention, "--max-tokens", str(max_tokens), "--temperature", "0", "--json"]
            command += ["--quiet", *flags]
            done = subprocess.run(command, capture_output=True, text=True, timeout=REQUEST_TIMEOUT_SECONDS, check=False)
        if done.returncode != 0:
            sys.exit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr or done.stdout}")
        answer: Json = json.loads(done.stdout)
        return answer


def add_cli_flags(parser: ArgumentParser) -> None:
    """The two flags that every comparison takes."""
    parser.add_argument("--farspan", type=Path, required=True, help="the farspan command")
    parser.add_argument("--server", required=True, metavar="HOST:PORT", help="a running server with the golden's model")


def print_table(header: list[str], rows: list[list[str]]) -> None:
    """A Markdown table, columns aligned."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    for row in [header, ["-" * width for width in widths], *rows]:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |", flush=True)
