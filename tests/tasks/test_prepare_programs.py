"""`tracelift prepare` for programs: what is written gives the problems, tests and all, that the files gave."""

import json
import re
from pathlib import Path

import pytest
from tiny import ROOT, command, run

from tracelift_jax.config import CodeTask, HumanEval, JsonlTask, Mbpp
from tracelift_jax.tasks.prepared import prepared_rows, problem_of

TASKS = ROOT / "experiments" / "tasks"
HUMAN_EVAL = {
    "task_id": "HumanEval/0",
    "prompt": 'def add(a, b):\n    """Adds."""\n',
    "entry_point": "add",
    "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n",
}


def mbpp(task: int) -> dict:
    return {
        "task_id": task,
        "text": f"Write f{task}.",
        "test_list": [f"assert f{task}(1) == '€'"],
        "test_setup_code": "",
    }


def write(path: Path, *rows: dict) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def prepared(name: str, out: Path, *flags: str) -> str:
    run("prepare", f"--gin_file={TASKS / f'{name}.gin'}", *flags, f"--out={out}")
    return str(out / name / "1.0.0")


def test_human_eval(tmp_path, capsys):
    path = write(tmp_path / "rows.jsonl", HUMAN_EVAL)
    directory = prepared("humaneval", tmp_path, f"--gin.TEST={path}")
    assert JsonlTask(test=directory).problems("test") == HumanEval(path).problems("test")
    assert re.fullmatch(re.escape(f"{directory}: 1 test problems; ") + r"\d+\.\d s\n", capsys.readouterr().out)


def test_mbpp_has_more_splits_than_two(tmp_path, capsys):
    path = write(tmp_path / "rows.jsonl", *map(mbpp, (3, 11, 12, 601, 602, 603)))
    directory = prepared("mbpp", tmp_path, f"--gin.MBPP={path}")
    # None is from 511 to 600, the validation problems.
    told = re.escape(f"{directory}: 1 prompt, 2 test and 3 train problems; ") + r"\d+\.\d s\n"
    assert re.fullmatch(told, capsys.readouterr().out)
    task = Mbpp(path)
    for split in ("train", "test"):
        assert JsonlTask(directory, directory).problems(split) == task.problems(split)
    [(where, row)] = prepared_rows(directory, "prompt")
    assert (problem_of(row, where),) == task.problems("prompt")


def test_programs_of_ones_own(tmp_path, capsys):
    rows = [{"problem_id": name, "problem": "Add.", "solution": "a"} for name in "abc"]
    path = write(tmp_path / "rows.jsonl", *rows)
    tests = [{"input": "1 2", "output": "3", "is_feedback_test": True}, {"input": "2 2\n", "output": "4\n"}]
    oracle = write(tmp_path / "tests.jsonl", *({"problem_id": name, "tests": tests} for name in "ac"))
    directory = prepared("code", tmp_path, "--gin.TRAIN=''", f"--gin.TEST={path}", f"--gin.ORACLE=('{oracle}',)")
    assert re.fullmatch(
        re.escape(f"{directory}: 3 test problems, 1 without tests; ") + r"\d+\.\d s\n", capsys.readouterr().out
    )
    found = JsonlTask(test=directory).problems("test")
    assert found == CodeTask(test=path, tests="oracle", oracle=(oracle,)).problems("test")
    assert [len(problem.oracle or ()) for problem in found] == [2, 0, 2]


def test_a_file_without_problems_of_any_split(tmp_path):
    path = write(tmp_path / "rows.jsonl", mbpp(2000))
    outcome = command("prepare", f"--gin_file={TASKS / 'mbpp.gin'}", f"--gin.MBPP={path}", f"--out={tmp_path}")
    assert outcome.code == 2
    assert outcome.errors == "tracelift: Prepare.task: there are no problems in any of its splits\n"
    assert not (tmp_path / "mbpp").exists()


@pytest.mark.parametrize("file", ["humaneval/HumanEval.jsonl.gz", "mbpp/mbpp.jsonl", "mbpp/sanitized-mbpp.json"])
def test_the_files_as_published(shared_data, tmp_path, file):
    name = file.partition("/")[0]
    path = str(shared_data / file)
    directory = prepared(name, tmp_path, f"--gin.{'TEST' if name == 'humaneval' else 'MBPP'}={path}")
    task = HumanEval(path) if name == "humaneval" else Mbpp(path)
    for split in task.splits:
        assert tuple(problem_of(row, where) for where, row in prepared_rows(directory, split)) == task.problems(split)
