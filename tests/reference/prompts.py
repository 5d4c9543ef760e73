# SPDX-License-Identifier: Apache-2.0
"""The texts behind the goldens. The goldens store token ids, so only the scripts that make them need this file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

LICENCES = Path("/usr/share/common-licenses")
"""Long English text that every Debian machine has."""

DEFAULT_SYSTEM_PROMPT = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
"""What the model's own chat template says when a conversation brings no system message."""


@dataclass(frozen=True)
class PromptText:
    """A prompt before tokenising; `chat` puts it as the user's message into the model's chat template."""

    name: str
    source: str
    text: str
    chat: bool = False
    limit_tokens: int | None = None


def chat_prompt(user: str, system: str = DEFAULT_SYSTEM_PROMPT) -> str:
    """The model's chat template (ChatML) with one user message and an open assistant turn."""
    return f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"


def licence(name: str, begin: int = 0, end: int | None = None) -> str:
    """Characters [begin, end) of one of Debian's licence texts."""
    return (LICENCES / name).read_text(encoding="utf-8")[begin:end]


CODE_AND_DIGITS = """\
#include <array>
#include <cstdint>

// Sieve of Eratosthenes over a fixed array; prints the primes below 100.
int main() {
  std::array<bool, 100> composite{};
  for (std::int64_t i = 2; i < 100; ++i) {
    if (composite[i]) continue;
    for (std::int64_t j = i * i; j < 100; j += i) composite[j] = true;
  }
  return 0;
}

2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97

| n | n^2 | n^3 |
|---|-----|------|
| 7 | 49 | 343 |
| 8 | 64 | 512 |
| 9 | 81 | 729 |
| 10 | 100 | 1000 |
| 11 | 121 | 1331 |
| 12 | 144 | 1728 |

pi = 3.14159265358979323846264338327950288419716939937510
e  = 2.71828182845904523536028747135266249775724709369995
0x1F + 0b1011 = 42; 1e-3 * 2.5E+06 = 2500.0; 2026-03-14T09:26:53.589Z
for key, value in sorted({"alpha": 1, "beta": [2, 3]}.items()):
    print(f"{key!r}: {value!r}")
"""

MULTILINGUAL = """\
The sea was calm that morning, and the harbour smelled of salt and tar.
Das Meer war an jenem Morgen ruhig, und der Hafen roch nach Salz und Teer.
La mer était calme ce matin-là, et le port sentait le sel et le goudron.
El mar estaba en calma aquella mañana, y el puerto olía a sal y a alquitrán.
O mar estava calmo naquela manhã, e o porto cheirava a sal e a alcatrão.
Море было спокойно в то утро, и гавань пахла солью и смолой.
Η θάλασσα ήταν ήρεμη εκείνο το πρωί.
その朝、海は穏やかだった。港は塩とタールの匂いがした。
那天早晨大海很平静，港口散发着盐和焦油的气味。
그날 아침 바다는 잔잔했다.
كان البحر هادئًا في ذلك الصباح.
उस सुबह समुद्र शांत था।
Emoji and signs: 🌊⚓🧂 — “quoted”, naïve café, 5 €, ½ + ¼ = ¾, x² ≤ y³ … fin.
"""

LOGPROB_PROMPTS = (
    PromptText("licence_4000", "GPL-3 from its start, exactly 4000 tokens", licence("GPL-3"), limit_tokens=4000),
    PromptText("licence_600", "Apache-2.0 from its start, 600 tokens", licence("Apache-2.0"), limit_tokens=600),
    PromptText(
        "chat_question",
        "chat template with the default system prompt, own text",
        "I keep bees on a roof in the city. Last week one of the two hives went quiet, and the other is as busy as "
        "ever. It rained for nine days before that. What could have happened, and what should I look at first?",
        chat=True,
    ),
    PromptText("code_and_digits", "own C++ and Python text, tables, numbers", CODE_AND_DIGITS),
    PromptText("multilingual", "own text in thirteen languages and signs", MULTILINGUAL),
)

GREEDY_QUESTIONS = (
    "Why is the sky blue? Explain it to a child.",
    "How do I bake a simple loaf of bread without a mixer?",
    "Write a Python function that tells whether a number is prime.",
    "Write a short letter to a friend who has moved to another country.",
    "What were the main causes of the French Revolution?",
    "List seven things to pack for a winter hike.",
    "Tell me a story about a lighthouse keeper and a whale.",
    "Describe the water cycle in detail, from the sea to the clouds and back.",
    "Explique la photosynthèse en français, s'il te plaît.",
    "Summarise this text:\n\n" + licence("BSD"),
    "What is machine learning?",
    "How does a refrigerator keep food cold?",
    "Write a Python function that reverses a string.",
    "Explain the difference between a virus and a bacterium.",
    "What are the benefits of regular exercise?",
    "How do vaccines work?",
    "Write a SQL query that counts the orders of each customer.",
    "Give me five tips for a job interview.",
    "What is the theory of relativity?",
    "How do I change a flat tyre on a bicycle?",
    "Write a haiku about autumn, then explain it line by line.",
    "Who was Marie Curie and why is she remembered?",
)
"""In the chat template with the default system prompt."""

GREEDY_TEXTS = (
    ("GPL-3, characters 0 to 2000", licence("GPL-3", 0, 2000)),
    ("Apache-2.0, characters 3000 to 5500", licence("Apache-2.0", 3000, 5500)),
    ("MPL-2.0, characters 1000 to 2500", licence("MPL-2.0", 1000, 2500)),
    ("Artistic, characters 500 to 1500", licence("Artistic", 500, 1500)),
    ("LGPL-2.1, characters 0 to 3000", licence("LGPL-2.1", 0, 3000)),
    ("GFDL-1.3, characters 2000 to 3000", licence("GFDL-1.3", 2000, 3000)),
    ("CC0-1.0, characters 0 to 1500", licence("CC0-1.0", 0, 1500)),
    ("own text", "Once upon a time, in a village at the foot of a mountain, there lived"),
    ("own text", "The second law of thermodynamics states that"),
    ("own text", "def fibonacci(n: int) -> int:\n    "),
    ("own text", "1, 1, 2, 3, 5, 8, 13, 21, 34,"),
    ("own text", "Die Hauptstadt von Deutschland ist"),
    ("own text", "Photosynthesis"),
    ("own text", "Monday, Tuesday, Wednesday,"),
    ("own text", "#include <stdio.h>\n\nint main(void) {\n"),
    ("own text", "import numpy as np\n\n\ndef softmax(x):\n"),
    ("own text", "| country | capital |\n|---|---|\n| France | Paris |\n| Italy | Rome |\n"),
    ("own text", "one two three four five six seven eight nine ten one two three four five six seven eight"),
    ("own text", "Water boils at 100 degrees Celsius. Water freezes at 0 degrees Celsius. Water boils at"),
    ("own text", "def add(a, b):\n    return a + b\n\n\ndef subtract(a, b):\n    return a - b\n\n\ndef multiply("),
    ("own text", '{"name": "Anna", "age": 31}\n{"name": "Ben", "age": 28}\n{"name": "Carla", "age":'),
    ("own text", "A B C D E F G H I J"),
)
"""Plain text to continue."""

GREEDY_PROMPTS = tuple(
    PromptText(f"chat_{number:02}", "chat template, own text", text, chat=True)
    for number, text in enumerate(GREEDY_QUESTIONS, 1)
) + tuple(PromptText(f"raw_{number:02}", source, text) for number, (source, text) in enumerate(GREEDY_TEXTS, 1))
