"""Prepared data sets give back the problems they were made from, whatever happens while they are written."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tracelift_jax.errors import UserError
from tracelift_jax.tasks.files import JsonlTask
from tracelift_jax.tasks.prepared import write_prepared, write_problems
from tracelift_jax.tasks.problem import Problem

PROBLEMS = (
    Problem("a/1", "Wie viel? é\u2028", "-3/4", "Erst eins,\ndann zwei.", "algebra"),
    Problem("a/2", "How much?", "9" * 60),
    Problem("a/3", "Where is $x$?", r"\left[ 0, \frac{1}{2} \right)", answer_kind="latex"),
    Problem("a/4", "Write it.", "print(1)", task_type="code", task_name="code", tests="assert f(1) == 2"),
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> str:
    out = tmp_path_factory.mktemp("prepared")
    return str(write_problems("some", {"train": PROBLEMS, "test": PROBLEMS[::-1]}, out))


def test_problems_are_read_as_they_were(directory):
    for fields in ("gsm8k", "svamp"):  # how others' rows would be read does not matter
        task = JsonlTask(directory, directory, fields)
        assert task.problems("train") == PROBLEMS
        assert task.problems("test") == PROBLEMS[::-1]
    assert list(Path(directory).glob("*-train.array_record-*"))
    assert Path(directory).parts[-2:] == ("some", "1.0.0")


def test_rows_hold_every_field(directory):
    features = json.loads((Path(directory) / "features.json").read_text())["featuresDict"]["features"]
    text = {"problem_id", "problem", "answer", "answer_kind", "reasoning", "task_type", "task_name", "tests", "oracle"}
    assert set(features) == text


def test_the_layout_of_the_catalogue(tmp_path):
    """`gsm8k` of tensorflow-datasets splits the answer; its rows are those of the files all the same."""
    row = {"question": "How many?", "answer": "3*4=<<3*4=12>>12\n#### 12", "short_answer": "12"}
    row["annotation"] = row["answer"].split("#### ")[0]
    path = str(write_prepared("gsm8k", sorted(row), {"train": [row], "test": [row], "test_socratic": [row]}, tmp_path))
    assert JsonlTask(test=path, fields="gsm8k").problems("test") == (
        Problem("gsm8k/test/0", "How many?", "12", "3*4=12"),
    )


def test_it_leaves_nothing_else_and_does_not_overwrite(directory):
    out = Path(directory).parents[1]
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    with pytest.raises(UserError, match=f"^{re.escape(directory)}: already there; remove it or choose another"):
        write_problems("some", {"train": PROBLEMS[:1]}, out)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    assert [path.name for path in out.iterdir()] == ["some"]
    assert [path.name for path in (out / "some").iterdir()] == ["1.0.0"]


class Interrupting(dict):
    """A row during whose writing somebody presses Ctrl-C."""

    def __getitem__(self, key):
        raise KeyboardInterrupt


def test_an_interruption_leaves_nothing(tmp_path):
    good = {"question": "How many?"}
    with pytest.raises(KeyboardInterrupt):
        write_prepared("some", ["question"], {"train": [good] * 3 + [Interrupting()]}, tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert (write_prepared("some", ["question"], {"train": [good]}, tmp_path) / "dataset_info.json").is_file()


KILLED = """
import os, signal, sys
from tracelift_jax.tasks.prepared import write_prepared

class Killing(dict):
    def __getitem__(self, key):
        os.kill(os.getpid(), signal.SIGKILL)

write_prepared("some", ["question"], {"train": [{"question": "?"}, Killing()]}, sys.argv[1])
"""


def test_a_kill_leaves_no_data_set_and_does_not_matter_later(tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert [path.name.split(".")[0] for path in (tmp_path / "some").iterdir()] == ["incomplete"]
    write_prepared("some", ["question"], {"train": [{"question": "?"}]}, tmp_path)
    assert [path.name for path in (tmp_path / "some").iterdir()] == ["1.0.0"]


def test_a_prepared_dataset_names_what_is_wrong(directory, tmp_path):
    out = str(Path(directory).parents[1])

    def refused(path, split="train") -> str:
        with pytest.raises(UserError) as caught:
            JsonlTask(path, path, "gsm8k").problems(split)
        [line] = str(caught.value).splitlines()
        return line

    assert refused(out).endswith(f"did you mean {directory}?")
    assert refused(str(tmp_path)).startswith(f"{tmp_path}: not the versioned directory")
    rows = [{"question": "How many?"}]
    plain = str(write_prepared("plain", ["question"], {"train": rows}, tmp_path))
    assert refused(plain) == f'{plain}:train:1: no "answer"; every row needs a non-empty text field "answer"'
    assert refused(plain, "test") == f'{plain}: no split "test"; there are "train"'
    odd = [{"problem_id": "a", "problem": "?", "answer": "1", "answer_kind": "word"}]
    path = str(write_prepared("odd", list(odd[0]), {"train": odd}, tmp_path))
    assert refused(path) == f'{path}:train:1: "answer_kind" is "word"; prepare the data set again'
    odd = [{"problem_id": "a", "problem": " ", "answer": "1", "answer_kind": "number"}]
    path = str(write_prepared("empty", list(odd[0]), {"train": odd}, tmp_path))
    assert refused(path).startswith(f'{path}:train:1: no "problem"')
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=re.escape(f"{tmp_path}/file/some/1.0.0: cannot be written (Not a directory)")):
        write_problems("some", {"train": PROBLEMS}, tmp_path / "file")
    next(Path(plain).glob("*.array_record-*")).write_bytes(b"damaged")
    assert "the prepared dataset cannot be read" in refused(plain)


def test_tensorflow_is_never_imported(directory, tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"problem": "1+1?", "answer": 2}) + "\n")
    program = f"""
import sys

class WithoutTensorFlow:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] == "tensorflow" else self.finder.find_spec(name, path, target)

sys.meta_path[:] = map(WithoutTensorFlow, sys.meta_path)  # as if it were not installed, also where it is
from tracelift_jax.tasks.files import JsonlTask
from tracelift_jax.tasks.prepared import write_problems

problems = JsonlTask({str(tmp_path / "rows.jsonl")!r}).problems("train")
assert "tensorflow_datasets" not in sys.modules, "imported where files are read"
assert len(JsonlTask({directory!r}).problems("train")) == {len(PROBLEMS)}
write_problems("more", {{"train": problems}}, {str(tmp_path / "out")!r})
assert not [name for name in sys.modules if name.partition(".")[0] == "tensorflow"]
print("fine")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "fine\n"
