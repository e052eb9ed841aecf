"""`tracelift eval` on the command line: its flags, and what it says to what cannot be."""

from pathlib import Path

import pytest
from gin_evals import write_evals
from scripted import config
from tiny import command

from tracelift_jax.evals.evaluate import with_flags


@pytest.fixture(scope="module")
def gin(folder) -> Path:
    return write_evals(folder)


def refused(*arguments) -> str:
    outcome = command("eval", *arguments)
    assert outcome.code == 2, outcome
    [line] = outcome.errors.splitlines()
    return line.removeprefix("tracelift: ")


def test_flags_that_need_others(tmp_path):
    out = tmp_path / "out"
    assert refused(f"--out={out}") == "tracelift eval --out: give --gin_file=F, one of which binds config.Evaluate"
    assert refused("--executors=x") == (
        "tracelift eval --executors: give --out=DIR too, and gin files that bind config.Evaluate"
    )
    assert refused().startswith("tracelift eval: give --run_dir=D (repeatable)")
    assert not out.exists()


def test_an_experiment_without_an_evaluation(folder, gin, tmp_path):
    line = refused(f"--gin_file={folder / 'tiny_train.gin'}", f"--out={tmp_path / 'out'}")
    assert "Evaluate" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flag", "parts"),
    [
        ("--gin.Evaluate.sampels=3", ["--gin.Evaluate.sampels", "did you mean 'samples'"]),
        ("--gin.Evaluate.samples=0", ["--gin.Evaluate.samples", "must be at least 1, got 0"]),
        ("--gin.base/Model.path=nowhere", ["nowhere"]),
        ("--run_dir=nowhere", ["nowhere: holds no run (no config.gin)"]),
        ("--executors=nowhere", ["nowhere: no such tokenizer directory"]),
        ("--gin.Evaluate.only=('dail',)", ["did you mean 'dial'"]),
    ],
)
def test_a_mistake_claims_no_directory(gin, tmp_path, flag, parts):
    line = refused(f"--gin_file={gin}", f"--out={tmp_path / 'out'}", flag)
    for part in parts:
        assert part in line
    assert not (tmp_path / "out").exists()


def test_directories_of_something_else(gin, tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    line = refused(f"--gin_file={gin}", f"--out={tmp_path}")
    assert line == f"{tmp_path}: is not empty and holds no evaluation; choose another --out"
    line = refused(f"--gin_file={gin}", f"--out={tmp_path / 'letter.txt'}")
    assert line == f"{tmp_path / 'letter.txt'}: is a file; choose another --out"
    (tmp_path / "evaluation.json").write_text("{")
    assert refused(f"--gin_file={gin}", f"--out={tmp_path}").startswith(f"{tmp_path / 'evaluation.json'}: not JSON (")


def test_flags_add_to_the_experiment(folder):
    plain = config(folder, sources=("none", "reference", "trained"), runs=("a/first",))
    found = with_flags(plain, ["b/second"], [str(folder / "base")])
    assert found.runs == ("a/first", "b/second") and found.planners == ("first", "second")
    [executor] = found.executors
    base = plain.train.roles.base
    assert executor.name == "base" and executor.model.path == str(folder / "base")
    assert (executor.model.dtype, executor.model.remat) == (base.dtype, base.remat)
    assert with_flags(plain, [], []) == plain
