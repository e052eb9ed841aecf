"""The results are those of the pages they link to: every number stands there, and every command is one that exists."""

import re
import shlex

import pytest
from pages import DOCS, ROOT

from tracelift_jax.commands import COMMANDS

TEXT = (DOCS / "results.md").read_text()
ROWS = [
    [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
    for line in TEXT.splitlines()
    if line.startswith("| ") and not line.startswith("| what")
]
NUMBER = r"\d[\d,]*(?:\.\d+)?(?:e-?\d+)?"


def linked(details: str) -> str:
    """The text of the page that a row points at."""
    [target] = re.findall(r"\]\(([^)#]+)", details)
    return (DOCS / target).read_text()


def test_there_are_results():
    assert len(ROWS) >= 20 and all(len(row) == 4 for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:60])
def test_numbers_stand_on_the_page_that_is_linked(row):
    _, result, _, details = row
    page = set(re.findall(NUMBER, linked(details)))
    found = re.findall(NUMBER, result)
    assert set(found) <= page, set(found) - page
    assert found or "of form" in result


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:60])
def test_commands_exist(row):
    command = row[2]
    if command == "the same":
        return
    program, *rest = shlex.split(command.strip("`"))
    if program == "tracelift":
        assert rest[0] in COMMANDS
        files = [word.partition("=")[2] for word in rest if word.startswith("--gin_file=")]
    else:
        files = [rest[0]] if program == "python" else [program]
    assert all((ROOT / file).is_file() for file in files), files


def test_numbers_in_the_text_are_the_readmes():
    [told] = re.findall(r"falls a little in both, from ([\d.]+) to ([\d.]+) and ([\d.]+)\.\n", TEXT)
    [row] = re.findall(r"\| accuracy, greedy \|.*", (ROOT / "README.md").read_text())
    before, first, _, second = re.findall(r"(?<=[ *])\d\.\d+(?= ±)", row)
    assert told == (before, first, second)
