#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the long prompt of the quickstart: a text, a fact planted in it, and a question that only the fact answers."""

import argparse
import pathlib
import sys

FACT = "The access code of the archive room is 48213. Remember it: the access code is 48213."
QUESTION = "What is the access code of the archive room? Answer with the number."
DEPTH = 0.30


def plant(text: str, fact: str, depth: float) -> str:
    """Returns `text` with `fact` as a paragraph of its own, at the paragraph border nearest to `depth` of it."""
    wanted = depth * len(text)
    borders = []
    start = text.find("\n\n")
    while start >= 0:
        borders.append(start)
        start = text.find("\n\n", start + 2)
    if not borders:
        raise ValueError("the text has no empty line between paragraphs")
    border = min(borders, key=lambda place: abs(place - wanted))
    return f"{text[:border]}\n\n{fact}{text[border:]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text", type=pathlib.Path, help="the text, UTF-8")
    parser.add_argument("prompt", type=pathlib.Path, help="the file to write")
    arguments = parser.parse_args()
    try:
        text = arguments.text.read_text(encoding="utf-8")
        prompt = f"{plant(text, FACT, DEPTH).rstrip()}\n\n{QUESTION}"
        arguments.prompt.write_text(prompt, encoding="utf-8")
    except (OSError, ValueError) as error:
        sys.exit(f"make_prompt: {error}")


if __name__ == "__main__":
    main()
