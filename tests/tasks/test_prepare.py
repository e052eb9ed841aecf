"""`tracelift prepare` with the files of experiments/tasks, and those files in a run."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from tiny import TASK, command, run

from tracelift_jax import gin_config
from tracelift_jax.config import DialGroups, Fields, GroupFiles, JsonlTask, Train
from tracelift_jax.groups.schema import Group

ROOT = Path(__file__).parents[2]
TASKS = ROOT / "experiments" / "tasks"
STEPS = {"question": "How many?", "answer": "3*4=<<3*4=12>>12\n#### 12"}
ROWS: dict[str, dict[str, Any]] = {
    "gsm8k": STEPS,
    "gsm_hard": {"input": "How many?", "code": "", "target": -0.5},
    "gsm_plus": {"question": "How many?", "solution": "No idea.\n#### None", "answer": "None"},
    "gsm_symbolic": {"id": 1, "instance": 2, **STEPS},
    "math": {"problem": "What is $x$?", "solution": "It is $\\boxed{\\frac12}$."},
    "math500": {"problem": "What is $x$?", "solution": "It is 5.", "answer": "5", "unique_id": "test/1.json"},
    "svamp": {"ID": "chal-1", "Body": "Three.", "Question": "How many?", "Equation": "3", "Answer": 3.0},
    "jsonl": {"problem": "How many?", "answer": 3},
}
MAWPS = ("multiarith", "addsub", "singleop", "singleeq")
ROWS |= {name: {"input": "How many?", "target": 43.0} for name in MAWPS}
BOTH = ("gsm8k", "math")
PROGRAMS = ("humaneval", "mbpp", "code")  # see test_prepare_programs.py
FIELDS: dict[str, Any] = {**{name: name for name in ROWS}, **dict.fromkeys(MAWPS, "mawps"), "jsonl": Fields()}


def write(path: Path, rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_there_is_a_file_for_each():
    assert {file.stem for file in TASKS.glob("*.gin")} == {*ROWS, "groups", *PROGRAMS}


@pytest.mark.parametrize("name", ROWS)
def test_prepare_then_read(name, tmp_path, capsys):
    """Both splits where the benchmark has them; what is written is what the files gave."""
    flags = {"TEST": write(tmp_path / "test.jsonl", [ROWS[name]])}
    if name in BOTH:
        flags["TRAIN"] = write(tmp_path / "train.jsonl", [ROWS[name]] * 3)
    shown = [f"--gin.{key}={value}" for key, value in flags.items()]
    run("prepare", f"--gin_file={TASKS / f'{name}.gin'}", *shown, f"--out={tmp_path / 'out'}")
    directory = tmp_path / "out" / name / "1.0.0"
    files = JsonlTask(flags.get("TRAIN", ""), flags["TEST"], FIELDS[name], name)
    for split in files.splits:
        assert JsonlTask(str(directory), str(directory)).problems(split) == files.problems(split)
        assert files.problems(split)[0].problem_id.startswith(f"{name}/")
    counts = "3 train and 1 test problems" if name in BOTH else "1 test problems"
    counts += ", 1 with an answer that is no number" if name == "gsm_plus" else ""
    assert re.fullmatch(re.escape(f"{directory}: {counts}; ") + r"\d+\.\d s\n", capsys.readouterr().out)


def test_fields_of_ones_own_by_flags(tmp_path):
    """The command in the header of jsonl.gin."""
    header = re.sub(r" \\\n#", "", (TASKS / "jsonl.gin").read_text().split("from __gin__")[0])
    [words] = [shlex.split(line) for line in re.findall("^#   (tracelift prepare .*)", header, re.MULTILINE)]
    file = write(tmp_path / "mine.jsonl", [{"question": "1+1?", "target": "2.0", "solution": "Count."}])
    words = [word.replace("mine.jsonl", file).replace("=prepared", f"={tmp_path}") for word in words]
    run(*[word.replace("experiments", str(ROOT / "experiments")) for word in words[1:]])
    [problem] = JsonlTask(str(tmp_path / "mine" / "1.0.0"), str(tmp_path / "mine" / "1.0.0")).problems("test")
    assert (problem.problem_id, problem.text, problem.answer) == ("mine/test/0", "1+1?", "2")
    assert problem.reasoning == "Count."


@pytest.mark.parametrize("name", [*ROWS, "groups", *PROGRAMS])
def test_the_command_of_the_header_loads(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    header = re.sub(r" \\\n#", "", (TASKS / f"{name}.gin").read_text().split("from __gin__")[0])
    [words] = [shlex.split(line) for line in re.findall("^#   (tracelift prepare .*)", header, re.MULTILINE)]
    outcome = command(*words[1:])
    assert outcome.code == 2  # for the data are not there, and nothing else is wrong
    assert re.fullmatch(r"tracelift: [\w.-]+\.(jsonl|json|jsonl\.gz): no such file\n", outcome.errors)
    assert not (ROOT / "prepared").exists()


def test_groups(tmp_path, capsys):
    groups = {split: DialGroups(TASK).groups(split) for split in ("train", "test")}
    files = {split: write(tmp_path / split, [group.to_json() for group in made]) for split, made in groups.items()}
    flags = [f"--gin_file={TASKS / 'groups.gin'}", f"--gin.TRAIN={files['train']}"]
    run("prepare", *flags, f"--gin.TEST={files['test']}", f"--out={tmp_path / 'both'}")
    directory = str(tmp_path / "both" / "tracelift_groups" / "1.0.0")
    assert re.fullmatch(
        re.escape(f"{directory}: 6 train and 5 test groups; ") + r"\d+\.\d s\n", capsys.readouterr().out
    )
    for split in ("train", "test"):
        assert GroupFiles(directory, directory).groups(split) == GroupFiles(files["train"], files["test"]).groups(split)
    run("prepare", *flags, f"--out={tmp_path / 'one'}")
    alone = GroupFiles(str(tmp_path / "one" / "tracelift_groups" / "1.0.0"), dev_share=0.3)
    for split in ("train", "test"):
        assert alone.groups(split) == GroupFiles(files["train"], dev_share=0.3).groups(split)
    assert all(isinstance(group, Group) for group in alone.groups("train"))


def test_it_does_not_overwrite(tmp_path):
    file = write(tmp_path / "test.jsonl", [ROWS["svamp"]])
    words = ["prepare", f"--gin_file={TASKS / 'svamp.gin'}", f"--gin.TEST={file}", f"--out={tmp_path}"]
    run(*words)
    outcome = command(*words)
    assert outcome.code == 2
    assert outcome.errors == (
        f"tracelift: {tmp_path / 'svamp' / '1.0.0'}: already there; remove it or choose another directory\n"
    )


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--out=x"], "tracelift prepare: give --gin_file=F, for example: tracelift prepare --gin_file=.*"),
        ([f"--gin_file={TASKS / 'svamp.gin'}", "--out=x"], "TEST has no value: give --gin.TEST=... .*"),
        ([f"--gin_file={ROOT / 'experiments/models/prompts/plain.gin'}", "--out=x"], ".*TASK is not defined.*"),
    ],
)
def test_what_is_missing(words, line):
    outcome = command("prepare", *words)
    assert outcome.code == 2
    assert re.fullmatch(f"tracelift: {line}\n", outcome.errors)


@pytest.mark.parametrize("name", [name for name in ROWS if name != "gsm8k"])
def test_a_run_takes_any_of_them(name):
    """A file of tasks after a run file puts its problems in the place of GSM8K's."""
    files = [ROOT / "experiments" / file for file in ("models/qwen2.5_0.5b.gin", "gsm8k/planner.gin")]
    flags = ["BASE=there", "TEST=test.jsonl", *(["TRAIN=train.jsonl"] if name in BOTH else [])]
    task = gin_config.load(Train, [*map(str, files), str(TASKS / f"{name}.gin")], flags).value.roles.task
    assert isinstance(task, JsonlTask)
    assert (task.title, task.fields, task.test) == (name, FIELDS[name], "test.jsonl")
    assert task.splits == (("train", "test") if name in BOTH else ("test",))
