"""Arithmetic drills, from which a small reward model learns to check a calculation before it reads GSM8K.

    python experiments/gsm8k/small/drills.py 12000 --out=FILE
    python experiments/gsm8k/small/drills.py 256 --seed=1 --out=HELD_OUT

Each is a chain of two to four bare steps in plain words: "There are 14. Take away 5. Multiply it by 12. How many are
there?", solved as "14-5 = 9", "9*12 = 108". The file has GSM8K's format.
"""

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path

WORDS = {
    "+": ("Add {}.", "Then {} more come.", "It grows by {}."),
    "-": ("Take away {}.", "Then {} are lost.", "It falls by {}."),
    "*": ("Multiply it by {}.", "It becomes {} times as much."),
    "/": ("Divide it by {}.", "Share it among {}."),
}
FACTORS = (2, 2, 3, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 20)
SPACES = (("", "="), ("", " = "), (" ", " = "))
"""Around an operation and around its result, as GSM8K's authors write."""
LARGEST = 1000


def step(rng: random.Random, value: int) -> tuple[str, int, int]:
    """(operation, operand, result) on `value`; the result is whole, and between 0 and LARGEST."""
    while True:
        operation = rng.choice("++--**/")
        if operation in "+-":
            operand = rng.randint(1, rng.choice((20, 100)))
            result = value + operand if operation == "+" else value - operand
        else:
            operand = rng.choice(FACTORS)
            result = value * operand if operation == "*" else value // operand
        if 0 < result < LARGEST and (operation != "/" or result * operand == value):
            return operation, operand, result


def drills(count: int, seed: int = 0) -> Iterator[dict[str, str]]:
    """`count` rows {"question", "answer"} in GSM8K's format."""
    rng = random.Random(seed)
    for _ in range(count):
        value = rng.randint(2, rng.choice((20, 100)))
        question, answer = [f"There are {value}."], []
        around, equals = rng.choice(SPACES)
        for _ in range(rng.randint(2, 4)):
            operation, operand, result = step(rng, value)
            question.append(rng.choice(WORDS[operation]).format(operand))
            calculation = f"{value}{operation}{operand}={result}"
            answer.append(f"{value}{around}{operation}{around}{operand}{equals}<<{calculation}>>{result}")
            value = result
        answer.append(f"#### {value}")
        yield {"question": " ".join([*question, "How many are there?"]), "answer": "\n".join(answer)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0], allow_abbrev=False)
    parser.add_argument("count", type=int, help="how many drills")
    parser.add_argument("--seed", type=int, default=0, help="of the drills; 0 if not given")
    parser.add_argument("--out", type=Path, required=True, help="the JSONL file to write")
    args = parser.parse_args()
    args.out.write_text("".join(json.dumps(row) + "\n" for row in drills(args.count, args.seed)))
