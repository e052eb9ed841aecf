"""Each line on the troubleshooting page is what its command says, or stands in the source."""

import os
import re
import shlex
import sys
from pathlib import Path

import pytest
from pages import DOCS, ROOT, blocks
from tiny import command

from tracelift_jax import gin_config
from tracelift_jax.config import Train
from tracelift_jax.train.run import RunDir

TEXT = (DOCS / "troubleshooting.md").read_text()
SHOWN = [block.rstrip("\n").partition("\n") for block in blocks(TEXT, "console")]
LINES = [block.rstrip("\n") for block in blocks(TEXT, "text")]
SLOW = "prompt_tokens=10"
"""Part of the command that loads models before it can tell."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Files with the faults that the page tells of, and a run that has only begun."""
    folder = tmp_path_factory.mktemp("trouble")
    (folder / "answers.jsonl").write_text('{"question": "1 + 1", "output": "2", "gold": "2"}\n')
    for name in ("train", "test"):
        (folder / f"{name}.jsonl").write_text('{"question": "What is 1 + 1?", "answer": "It is 2."}\n')
    loaded = gin_config.load(Train, ["experiments/dial/tracelift.gin"])
    RunDir(folder / "runs" / "tracelift", loaded.value, loaded.operative).begin()
    return folder


def test_there_are_some():
    assert len(SHOWN) >= 15 and len(LINES) >= 10


@pytest.mark.parametrize(
    ("shown", "said"),
    [
        pytest.param(shown, said, marks=pytest.mark.slow if SLOW in shown else (), id=said[:60])
        for shown, _, said in SHOWN
    ],
)
def test_commands_say_what_is_shown(folder, monkeypatch, shown, said):
    monkeypatch.chdir(folder)
    monkeypatch.delitem(sys.modules, "own_reward", raising=False)  # where another test has imported it
    monkeypatch.setattr(sys, "path", [place for place in sys.path if Path(place).name != "examples"])
    program, *arguments = shlex.split(shown.removeprefix("$ "))
    assert program == "tracelift"
    before = sorted(folder.rglob("*"))
    outcome = command(*arguments)
    assert outcome.code == 2
    # Started in the repository, files are named as they were given; lines of gin files move.
    place = re.compile(r"(?<=\.gin:)\d+")
    heard = re.sub(r"; did you mean 'test_\w+'\?$", "", outcome.errors.strip())  # modules that no user has
    assert place.sub("N", heard.replace(f"{ROOT}{os.sep}", "")) == place.sub("N", said)
    assert sorted(folder.rglob("*")) == before, "a refused command leaves nothing behind"


def source() -> str:
    """The package's source, with strings that are written in several pieces joined."""
    text = "\n".join(file.read_text() for file in sorted((ROOT / "tracelift_jax").rglob("*.py")))
    return re.sub(r'(?<=[^\\"])"\n *f?"', "", text)


@pytest.mark.parametrize("line", LINES)
def test_lines_stand_in_the_source(line):
    """Piece by piece, since lines are put together from parts."""
    there = source()
    pieces = [piece.strip() for piece in re.split(r"…|; |\)", line)]
    long = [piece for piece in pieces if len(piece) > 9]
    assert long, line
    for piece in long:
        assert piece in there, piece
