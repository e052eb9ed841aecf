import gzip
import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tracelift_jax.errors import UserError
from tracelift_jax.tasks.gsm8k import Gsm8kTask, prepare
from tracelift_jax.tasks.problem import Problem

DATA = Path(__file__).parents[2].parent / "shared" / "data" / "gsm8k"
TEST, TRAIN = DATA / "test.jsonl", DATA / "train.jsonl.gz"
needs_data = pytest.mark.skipif(not (TEST.exists() and TRAIN.exists()), reason=f"no GSM8K in {DATA}")

ROW = {"question": " How many? ", "answer": "She has 3*4=<<3*4=12>>12.\nTwice: <<12*2=24>>24\n#### 24"}


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def made_rows(count: int) -> list[dict]:
    return [{"question": f"Wie viel ist {i}+1? é", "answer": f"<<{i}+1>>{i + 1}\n#### {i + 1}"} for i in range(count)]


def only(path: str, **fields) -> Problem:
    (problem,) = Gsm8kTask(path, path, **fields).problems("test")
    return problem


def test_a_row_by_hand(tmp_path):
    assert only(write(tmp_path / "a.jsonl", [ROW])) == Problem(
        problem_id="gsm8k/test/0",
        text="How many?",
        answer="24",
        reasoning="She has 3*4=12.\nTwice: 24",
        task_type="math",
    )


def test_fields_may_have_other_names_and_reasoning_may_be_missing(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"q": "How many?", "a": "#### 7"}])
    assert only(path, question_field="q", answer_field="a") == Problem("gsm8k/test/0", "How many?", "7")


@pytest.mark.parametrize(
    ("tail", "answer"),
    [
        ("#### 1,080", "1080"),
        ("####109,200,000 \n", "109200000"),
        ("#### 1 000", "1000"),
        ("#### -5", "-5"),
        ("#### 0.5", "0.5"),
        ("#### 1,234.25", "1234.25"),
        ("#### -3/4", "-3/4"),
        ("#### 1\n#### 2", "2"),  # the last one counts
    ],
)
def test_numbers(tmp_path, tail, answer):
    row = {"question": "How many?", "answer": f"steps\n{tail}"}
    assert only(write(tmp_path / "a.jsonl", [row])).answer == answer


NO_NUMBER = 'no number after "####" in "answer"; end it with a line such as "#### 18"'
NO_QUESTION = 'no "question"; every row needs a non-empty text field "question"'


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question": None}, NO_QUESTION),
        ({"question": 7}, NO_QUESTION),
        ({"question": " \n"}, NO_QUESTION),
        ({"answer": None}, 'no "answer"; every row needs a non-empty text field "answer"'),
        ({"answer": "so 18"}, NO_NUMBER),
        ({"answer": "18"}, NO_NUMBER),
        ({"answer": "so\n#### "}, NO_NUMBER),
        ({"answer": "so\n#### ten"}, NO_NUMBER),
        ({"answer": "so\n#### 1,5"}, NO_NUMBER),  # a decimal comma is not read as 15
        ({"answer": "so\n#### 3/0"}, NO_NUMBER),
        ({"answer": "so\n#### 18 or 19"}, NO_NUMBER),
        ({"answer": "so\n#### ١٨"}, NO_NUMBER),
    ],
)
def test_bad_rows_are_named_with_their_line(tmp_path, change, message):
    bad = {key: value for key, value in (ROW | change).items() if value is not None}
    path = tmp_path / "data.jsonl"
    path.write_text(f"{json.dumps(ROW)}\n\n{json.dumps(bad)}\n")
    with pytest.raises(UserError, match="^" + re.escape(f"{path}:3: {message}") + "$"):
        Gsm8kTask(str(path), str(path)).problems("train")


def test_splits(tmp_path):
    task = Gsm8kTask(write(tmp_path / "a.jsonl", made_rows(3)), write(tmp_path / "b.jsonl", made_rows(2)))
    assert [p.problem_id for p in task.problems("train")] == [f"gsm8k/train/{i}" for i in range(3)]
    assert [p.problem_id for p in task.problems("test")] == [f"gsm8k/test/{i}" for i in range(2)]
    assert task.problems("train") == task.problems("train")
    with pytest.raises(UserError, match=r'^split "dev": there are "train" and "test"$'):
        task.problems("dev")


@needs_data
def test_all_of_gsm8k_parses():
    task = Gsm8kTask(str(TRAIN), str(TEST))
    sizes = {"train": (7473, 79), "test": (1319, 14)}
    sources = {"train": gzip.decompress(TRAIN.read_bytes()).decode(), "test": TEST.read_text()}
    for split, (count, with_commas) in sizes.items():
        problems = task.problems(split)
        finals = [json.loads(line)["answer"].split("#### ")[1] for line in sources[split].splitlines()]
        assert len(problems) == count
        assert len({p.problem_id for p in problems}) == count
        assert [p.answer for p in problems] == [final.replace(",", "") for final in finals]
        assert sum("," in final for final in finals) == with_commas
        assert all(re.fullmatch(r"-?\d+", p.answer) for p in problems)
        assert all(p.reasoning and not re.search("<<|>>|####", p.reasoning) for p in problems)


@needs_data
def test_gzip_and_plain_agree(tmp_path):
    plain, packed = tmp_path / "train", tmp_path / "test"
    plain.write_bytes(gzip.decompress(TRAIN.read_bytes()))
    packed.write_bytes(gzip.compress(TEST.read_bytes()))
    shipped, swapped = Gsm8kTask(str(TRAIN), str(TEST)), Gsm8kTask(str(plain), str(packed))
    for split in ("train", "test"):
        assert shipped.problems(split) == swapped.problems(split)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> tuple[Gsm8kTask, str]:
    """A task over JSONL files and the directory prepared from them; rows of GSM8K where it is present."""
    folder = tmp_path_factory.mktemp("prepared")
    rows = made_rows(57)
    if TEST.exists():
        with open(TEST) as file:
            rows = [json.loads(line) for line in itertools.islice(file, 57)]
    files = {"train": write(folder / "train.jsonl", rows[:50]), "test": write(folder / "test.jsonl", rows[50:])}
    return Gsm8kTask(**files), str(prepare(files, folder / "out"))


def test_a_prepared_dataset_gives_the_same_problems(prepared):
    task, directory = prepared
    again = Gsm8kTask(directory, directory)
    for split, count in (("train", 50), ("test", 7)):
        assert len(again.problems(split)) == count
        assert again.problems(split) == task.problems(split)
    assert list(Path(directory).glob("*-train.array_record-*"))


def test_prepare_leaves_nothing_else_and_does_not_overwrite(prepared):
    task, directory = prepared
    out = Path(directory).parents[1]
    assert [path.name for path in out.iterdir()] == [Path(directory).parent.name]
    with pytest.raises(UserError, match="already there"):
        prepare({"train": task.train}, out)


def test_prepare_keeps_the_fields_that_are_text_everywhere(tmp_path):
    rows = [{"question": "a?", "answer": "#### 1", "n": 1, "note": "x"}, {"question": "b?", "answer": "#### 2", "n": 2}]
    directory = str(prepare({"test": write(tmp_path / "a.jsonl", rows)}, tmp_path / "out"))
    assert [p.answer for p in Gsm8kTask(directory, directory).problems("test")] == ["1", "2"]
    assert set(json.loads((Path(directory) / "features.json").read_text())["featuresDict"]["features"]) == {
        "question",
        "answer",
    }
    with pytest.raises(UserError, match="nothing to prepare"):
        prepare({"test": write(tmp_path / "b.jsonl", [{"n": 1}])}, tmp_path / "other")


def test_a_prepared_dataset_names_what_is_wrong(prepared, tmp_path):
    _, directory = prepared
    out = str(Path(directory).parents[1])
    with pytest.raises(UserError, match=re.escape(f"did you mean {directory}?")):
        Gsm8kTask(out, out).problems("train")
    with pytest.raises(UserError, match=re.escape(f"{tmp_path}: not the versioned directory")):
        Gsm8kTask(str(tmp_path), str(tmp_path)).problems("train")
    with pytest.raises(UserError, match=re.escape(f'{directory}:train:1: no "problem"')):
        Gsm8kTask(directory, directory, question_field="problem").problems("train")

    partial = str(prepare({"train": write(tmp_path / "a.jsonl", made_rows(2))}, tmp_path / "partial"))
    with pytest.raises(UserError, match=re.escape(f'{partial}: no split "test"; there are "train"')):
        Gsm8kTask(partial, partial).problems("test")
    next(Path(partial).glob("*.array_record-*")).write_bytes(b"damaged")
    with pytest.raises(UserError, match="the prepared dataset cannot be read") as caught:
        Gsm8kTask(partial, partial).problems("train")
    assert "\n" not in str(caught.value)


def test_tensorflow_is_never_imported(prepared, tmp_path):
    task, directory = prepared
    program = f"""
import sys

class WithoutTensorFlow:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] == "tensorflow" else self.finder.find_spec(name, path, target)

sys.meta_path[:] = map(WithoutTensorFlow, sys.meta_path)  # as if it were not installed, also where it is
from tracelift_jax.tasks.gsm8k import Gsm8kTask, prepare

Gsm8kTask({task.train!r}, {task.test!r}).problems("train")
assert "tensorflow_datasets" not in sys.modules, "imported where files are read"
assert len(Gsm8kTask({directory!r}, {directory!r}).problems("test")) == 7
prepare({{"train": {task.train!r}}}, {str(tmp_path / "out")!r})
assert not [name for name in sys.modules if name.partition(".")[0] == "tensorflow"]
print("fine")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "fine\n"
