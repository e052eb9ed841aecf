"""Seeds in GSM8K's format whose numbers are easy to work out."""

import json
import re
from pathlib import Path


def row(index: int) -> dict[str, str]:
    a, b = 14 + 3 * index, 5 + index
    return {
        "question": f"Ann picks {a} apples a day for {b} days and gives {a - 1} away. How many are left?",
        "answer": f"Ann picks {a}*{b} = <<{a}*{b}={a * b}>>{a * b} apples.\n"
        f"She is left with {a * b}-{a - 1} = <<{a * b}-{a - 1}={a * b - a + 1}>>{a * b - a + 1} apples.\n"
        f"#### {a * b - a + 1}",
    }


def positive(index: int) -> str:
    """The working of `row(index)` without its marks and its answer line."""
    return re.sub(r"<<.*?>>|\n####.*", "", row(index)["answer"])


def write_rows(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return path
