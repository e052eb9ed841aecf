"""Every command of the pages and notebooks: its flags exist, its gin files load, and it bears a mark where it must."""

import json
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
from pages import DOCS, PAGES, ROOT, blocks, table

from tracelift_jax import config, gin_config
from tracelift_jax.cli import _parser
from tracelift_jax.parallel.topology import UNREAD

MARKS = {row[0].strip("`[]") for row in table((DOCS / "README.md").read_text(), "A mark at a")}
ROOTS = {
    "train": config.Train,
    "train-rm": config.TrainRm,
    "sft": config.Sft,
    "eval": config.Train,
    "solve": config.Train,
    "baseline": config.Train,
    "score": config.Scorer,
    "serve": config.Scorer,
    "prepare": config.Prepare,
    "build-groups": config.Recipe,
    "aot": config.Train,
}
LONG = {"train", "train-rm", "sft", "baseline"}
"""Commands of tracelift that take more than a minute whatever they are given."""
ELSEWHERE = {"source", "hf", "curl", "pip", "apt-get", "set", "test", "git", "cd", "export", "python3"}
"""Programs of others, quick or bound by the network."""
RUNS = {
    "runs/code": "experiments/dial_code/tracelift.gin",
    "runs/tracelift_qwen2.5_7b": "experiments/gsm8k/tracelift_qwen2.5_7b.gin",
}
"""Runs whose config.gin a command names, and what they are runs of."""


class Shown(NamedTuple):
    """A command where it is shown: its words without what is set before them, and its comment."""

    where: str
    words: tuple[str, ...]
    comment: str


def _commands(where: str, script: str) -> list[Shown]:
    found = []
    for line in re.sub(r" *\\\n *", " ", script).splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        for part in re.split(r" && | \|\| ", line):
            lexer = shlex.shlex(part, posix=True, punctuation_chars=False)
            lexer.whitespace_split, lexer.commenters = True, "#"
            words = [word for word in lexer if not re.fullmatch(r"[A-Z_]+=.*", word)]
            comment = part.partition(" # ")[2]
            if words:
                found.append(Shown(where, tuple(words), comment))
    return found


def _notebook(file: Path) -> list[Shown]:
    cells = ["".join(cell["source"]) for cell in json.loads(file.read_text())["cells"]]
    return [one for cell in cells if cell.startswith("%%bash") for one in _commands(file.name, cell.partition("\n")[2])]


SHOWN = [one for page in PAGES for block in blocks(page.read_text(), "bash") for one in _commands(page.name, block)]
IN_NOTEBOOKS = [one for file in sorted((ROOT / "experiments" / "colab").glob("*.ipynb")) for one in _notebook(file)]
STAND_INS = {
    "$STEPS": "2",
    "$EPOCHS": "1",
    "$FLAGS": "",
    "$RM_FLAGS": "",
    "$TRAIN": "a",
    "$TEST": "b",
    "$RUN": "runs/a",
}


def tracelift(one: Shown) -> tuple[str, ...] | None:
    """The words behind `tracelift`, of whatever starts it; None where nothing does."""
    program, *rest = one.words
    if Path(program).name == "tracelift":
        return tuple(rest)
    if program.startswith("launch/") and "--" in rest:
        return tuple(rest[rest.index("--") + 1 :])
    if "IMAGE" in rest and program == "docker" and rest[0] == "run":
        return tuple(rest[rest.index("IMAGE") + 1 :])
    return None


def named(one: Shown) -> str:
    return f"{one.where}: {' '.join(one.words)[:70]}"


def test_there_are_commands_of_every_kind():
    assert len(SHOWN) > 60 and len(IN_NOTEBOOKS) > 12
    assert {words[0] for one in SHOWN if (words := tracelift(one))} >= {*ROOTS} - {"prepare", "baseline"}


@pytest.mark.parametrize("one", [one for one in (*SHOWN, *IN_NOTEBOOKS) if tracelift(one)], ids=named)
def test_flags_exist_and_gin_files_load(one, tmp_path, monkeypatch):
    words = tracelift(one)
    assert words is not None
    if one.where.endswith(".ipynb"):
        words = tuple(word for word in (re.sub(r"\$[A-Z_]+", lambda m: STAND_INS[m[0]], w) for w in words) if word)
    files, bindings, rest = gin_config.parse_flags(words)
    given = _parser().parse_args(rest)
    if not files or files == ["FILE"]:
        return
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    for run, file in RUNS.items():
        (tmp_path / run).mkdir(parents=True)
        flags = [f"{name}=x" for name in ("TRAIN", "TEST") if "gsm8k" in file]
        (tmp_path / run / "config.gin").write_text(gin_config.load(config.Train, [file], flags).operative)
    root = ROOTS[given.command]
    if given.command == "eval" and given.out:
        root = config.Evaluate
    if given.command == "aot":
        root = {"train": config.Train, "train-rm": config.TrainRm, "sft": config.Sft}[given.experiment]
    more = ["config.Prepare.task=%TASK"] if given.command == "prepare" else []
    fill = UNREAD if given.command == "aot" else None
    assert isinstance(gin_config.load(root, files, [*bindings, *more], fill).value, root)


@pytest.mark.parametrize(
    "one", [one for one in SHOWN if not tracelift(one) or one.words[0].startswith("launch/")], ids=named
)
def test_other_programs_are_there(one):
    program, *rest = one.words
    if program.startswith(("launch/", "tests/")):
        assert os.access(ROOT / program, os.X_OK), program
        if "--" in rest:
            plan = [str(ROOT / program), "--dry_run", *rest]
            done = subprocess.run(plan, capture_output=True, text=True, check=False, cwd=ROOT)
            assert done.returncode == 0 and "tracelift" in done.stdout, done.stderr
    elif program == "python":
        script = (ROOT / rest[0]).read_text()
        _, _, flags = gin_config.parse_flags(rest[1:])
        for flag in flags:
            name = re.match(r"--(\w+)", flag)
            assert name is None or re.search(rf'"--{name[1]}"|\b{name[1]}\b', script), flag
    else:
        assert Path(program).name in {*ELSEWHERE, "docker", "vllm"}, program


def wanted(one: Shown) -> bool:
    """Whether a command takes more than a minute on two cores, or something that not everybody has."""
    words = tracelift(one)
    if one.words[0].startswith(("launch/", "tests/")) or one.words[0] in ("python", "docker", "vllm"):
        return True
    return words is not None and (
        words[0] in LONG or (words[0] == "eval" and any(w.startswith("--out") for w in words))
    )


@pytest.mark.parametrize("one", SHOWN, ids=named)
def test_marks(one):
    mark = re.search(r"\[([^\]]+)\]$", one.comment.strip())
    assert mark is None or mark[1] in MARKS, f"{one.comment}: docs/README.md has the marks"
    assert mark is not None or not wanted(one) or "--compare" in one.words, (
        f"say at its end what it takes: {sorted(MARKS)}"
    )
