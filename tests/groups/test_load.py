"""Groups from files: both rubrics, every error with its line, prepared data sets, and the split by hash."""

import dataclasses
import gzip
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tracelift_jax.config import GroupFiles
from tracelift_jax.errors import UserError
from tracelift_jax.groups import load_groups
from tracelift_jax.groups.load import load_prepared, prepare_groups, split_groups
from tracelift_jax.groups.schema import Group, Rubric, Trace
from tracelift_jax.groups.source import DialGroups
from tracelift_jax.tasks.dial import DialTask
from tracelift_jax.tasks.prepared import write_prepared

MATH_RUBRIC = {
    "problem_understanding": 4,
    "solution_strategy": 3,
    "step_coherence": 2,
    "calculation_correctness": 1,
    "answer_support": 0,
    "total": 0.5,
}
CODE_RUBRIC = {
    "task_understanding": 0,
    "plan_quality": 1,
    "step_coherence": 2,
    "action_support": 3,
    "non_leakage": 4.0,
    "total": 1,
}
MATH_ROW = {
    "problem_id": "m/1",
    "source": "gsm8k",
    "task_type": "arithmetic",
    "problem": "Wie viel ist 1\u2028+ 2?",
    "reference_solution": "3",
    "positive_pool": [{"reasoning": "1 + 2 = 3", "rubric": MATH_RUBRIC, "grader": "x"}],
    "negative_bank": [{"reasoning": "1 + 2 = 4", "negative_kind": "wrong_calculation", "rubric": MATH_RUBRIC}] * 2,
    "metadata": {"anything": [1]},
    "more": None,
}
CODE_ROW = {
    "problem_id": "c/1",
    "source": "mbpp",
    "problem": "Add.",
    "reference_solution": "def f(): ...",
    "positive_pool": [{"reasoning": "Sum.", "rubric": CODE_RUBRIC}],
    "negative_bank": [],
    "metadata": {"task_type": "strings"},
}
MATH_GROUP = Group(
    problem_id="m/1",
    source="gsm8k",
    task_type="arithmetic",
    problem="Wie viel ist 1\u2028+ 2?",
    reference_solution="3",
    positives=(Trace("1 + 2 = 3", Rubric((4, 3, 2, 1, 0), 0.5)),),
    negatives=(Trace("1 + 2 = 4", Rubric((4, 3, 2, 1, 0), 0.5), "wrong_calculation"),) * 2,
)
CODE_GROUP = Group(
    problem_id="c/1",
    source="mbpp",
    task_type="strings",
    problem="Add.",
    reference_solution="def f(): ...",
    positives=(Trace("Sum.", Rubric((0, 1, 2, 3, 4), 1)),),
    negatives=(),
    rubric_name="code",
)
DIAL = DialTask(min_ops=1, max_ops=3, train_size=30, test_size=6)


def lines(rows: list) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def write(path: Path, rows: list) -> str:
    path.write_bytes(lines(rows))
    return str(path)


def one_line(error: pytest.ExceptionInfo) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_both_rubrics_in_one_file(tmp_path, compress):
    path = tmp_path / "groups.jsonl"
    path.write_bytes(compress(b"\n" + lines([MATH_ROW, CODE_ROW])))
    assert load_groups(path) == [MATH_GROUP, CODE_GROUP]
    assert load_groups(str(path))[1].rubric_name == "code"


def test_what_is_written_is_read(tmp_path):
    groups = list(DialGroups(DIAL).groups("train"))
    assert load_groups(write(tmp_path / "a.jsonl", [group.to_json() for group in groups])) == groups


def test_places_and_tests_are_read_and_written(tmp_path):
    """A span of "1 + 2 = 4" from its "4" on, an empty one at its end, and tests under either name."""
    bank = [trace | {"span": span} for trace, span in zip(MATH_ROW["negative_bank"], ([8, 9], [9, 9]), strict=True)]
    math = MATH_ROW | {"negative_bank": bank}
    ours, theirs = CODE_ROW | {"tests": "assert f()"}, CODE_ROW | {"tests_or_constraints": "n > 0", "problem_id": "c/2"}
    unread = CODE_ROW | {"tests_or_constraints": ["n > 0"], "problem_id": "c/3"}
    groups = load_groups(write(tmp_path / "a.jsonl", [math, ours, theirs, unread]))
    assert [trace.span for trace in groups[0].negatives] == [(8, 9), (9, 9)]
    assert [group.tests for group in groups] == ["", "assert f()", "n > 0", ""]
    assert load_groups(write(tmp_path / "b.jsonl", [group.to_json() for group in groups])) == groups


def changed(*path, to=None) -> dict:
    """MATH_ROW with the value at `path` replaced, or left out where `to` is None."""
    row = json.loads(json.dumps(MATH_ROW))
    place = row
    for key in path[:-1]:
        place = place[key]
    if isinstance(place, list) or path[-1] in place:
        del place[path[-1]]
    if to is not None:
        place.insert(path[-1], to) if isinstance(place, list) else place.update({path[-1]: to})
    return row


def without(*path) -> dict:
    """MATH_ROW without the value at `path`."""
    return changed(*path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (without("problem"), "field problem is missing"),
        (changed("problem", to=3), "field problem must be a string, not int"),
        (changed("problem", to=" \n"), "field problem is empty"),
        (changed("problem_id", to=""), "field problem_id is empty"),
        (changed("problem_id", to="c/1"), "field problem_id: 'c/1' is also at {path}:1"),
        (without("task_type"), "field task_type is missing"),
        (changed("positive_pool", to={}), "field positive_pool must be a list, not dict"),
        (changed("negative_bank", 1, to=[]), "negative_bank[1] must be an object, not list"),
        (without("negative_bank", 1, "negative_kind"), "field negative_bank[1].negative_kind is missing"),
        (without("positive_pool", 0, "rubric", "total"), "field positive_pool[0].rubric.total is missing"),
        (
            changed("negative_bank", 0, "rubric", "answer_support", to=5),
            "field negative_bank[0].rubric: rubric label 5 must be a whole number 0..4",
        ),
        (MATH_ROW | {"tests": ["a"]}, "field tests must be a string, not list"),
        (
            changed("negative_bank", 1, "span", to=[3, 10]),
            "field negative_bank[1].span must be two places in the reasoning, [begin, end], not [3, 10]",
        ),
        (
            changed("negative_bank", 1, "span", to=[3, 2]),
            "field negative_bank[1].span must be two places in the reasoning, [begin, end], not [3, 2]",
        ),
        (
            changed("negative_bank", 0, "rubric", to=CODE_RUBRIC),
            "field negative_bank[0].rubric.problem_understanding is missing",
        ),
    ],
)
def test_errors_name_file_line_and_field(tmp_path, row, message):
    path = write(tmp_path / "bad.jsonl", [CODE_ROW])
    Path(path).write_bytes(lines([CODE_ROW]) + b"\n" + lines([row]))
    with pytest.raises(UserError) as error:
        load_groups(path)
    assert one_line(error) == f"{path}:3: {message.format(path=path)}"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", ": the file is empty"),
        (b"\n \n", ": the file is empty"),
        (lines([MATH_ROW]) + b"{", ":2: not JSON"),
        (lines([MATH_ROW]) + b'{"problem": "\xff"}', ":2: not UTF-8"),
        (b"[]", ":1: not a JSON object"),
        (gzip.compress(lines([MATH_ROW]))[:-9], ": the gzip file is damaged"),
        (
            lines([MATH_ROW]).replace(b"1 + 2 = 4", b"\\ud800", 1),
            ":1: field negative_bank[0].reasoning holds half of a surrogate pair",
        ),
    ],
)
def test_files_that_hold_no_groups(tmp_path, data, message):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(data)
    with pytest.raises(UserError, match="^" + re.escape(f"{path}{message}")) as error:
        load_groups(path)
    one_line(error)


def named(*names: str) -> list[Group]:
    return [dataclasses.replace(MATH_GROUP, problem_id=name) for name in names]


def ids(groups) -> str:
    return "".join(group.problem_id for group in groups)


def test_the_split_by_hand():
    # printf '18\0f' | sha256sum, and so on for a to j: the hashes begin with
    # f 215e h 3e74 j 53b5 d 5701 e 71b8 b 89f1 i 9c04 a b648 c f05a g face; those of seed 19 with
    # g 40f0 b 4ac6 f 6212 d 6480 j 72a5 h aef3 c c063 i d3a0 e e50e a e67a.
    groups = named(*"abcdefghij")
    for given in (groups, groups[::-1]):  # whatever the order of the file
        train, dev = split_groups(given)
        assert (ids(dev), ids(train)) == ("f", "hjdebiacg")
        train, dev = split_groups(given, dev_share=0.4)
        assert (ids(dev), ids(train)) == ("fhjd", "ebiacg")
        train, dev = split_groups(given, seed=19, dev_share=0.2)
        assert (ids(dev), ids(train)) == ("gb", "fdjhciea")


@pytest.mark.parametrize(("train", "dev"), [(2198, 244), (2690, 299)])
def test_the_released_sizes(train, dev):
    found = split_groups(named(*map(str, range(train + dev))))
    assert tuple(map(len, found)) == (train, dev)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, str]:
    """Dial groups in JSONL."""
    folder = tmp_path_factory.mktemp("groups")
    source = DialGroups(DIAL)
    return {
        split: write(folder / f"{split}.jsonl", [group.to_json() for group in source.groups(split)])
        for split in ("train", "test")
    }


@pytest.fixture(scope="module")
def prepared(files, tmp_path_factory) -> str:
    return str(prepare_groups(files, tmp_path_factory.mktemp("prepared")))


def test_one_file_is_split_and_two_are_not(files):
    everything = load_groups(files["train"])
    source = GroupFiles(files["train"], seed=3, dev_share=0.2)
    assert (source.groups("train"), source.groups("test")) == split_groups(everything, 3, 0.2)
    assert len(source.groups("test")) == 6
    both = GroupFiles(files["train"], files["test"])
    assert both.groups("train") == tuple(everything)
    assert both.groups("test") == tuple(DialGroups(DIAL).groups("test"))


def test_a_prepared_data_set_holds_the_same_groups(files, prepared, tmp_path):
    assert Path(prepared).parts[-2:] == ("tracelift_groups", "1.0.0")
    assert list(Path(prepared).glob("*-train.array_record-*"))
    for split in ("train", "test"):
        assert GroupFiles(prepared, prepared).groups(split) == GroupFiles(**files).groups(split)
        assert GroupFiles(prepared).groups(split) == GroupFiles(files["train"]).groups(split)
    mixed = write(tmp_path / "mixed.jsonl", [MATH_ROW, CODE_ROW])
    assert load_prepared(prepare_groups({"dev": mixed}, tmp_path / "out"), "dev") == [MATH_GROUP, CODE_GROUP]


def test_what_cannot_be_prepared(files, prepared, tmp_path):
    with pytest.raises(UserError, match="already there"):
        prepare_groups(files, Path(prepared).parents[1])
    with pytest.raises(UserError, match="nothing to prepare"):
        prepare_groups({}, tmp_path / "none")
    with pytest.raises(UserError, match=":2: field problem is missing"):
        prepare_groups({"train": write(tmp_path / "bad.jsonl", [MATH_ROW, without("problem")])}, tmp_path / "bad")
    assert not (tmp_path / "bad").exists()


def test_a_prepared_data_set_of_something_else(tmp_path):
    other = str(write_prepared("other", ["question"], {"train": [{"question": "?"}]}, tmp_path))
    with pytest.raises(UserError, match="^" + re.escape(f"{other}:train:1: field positive_pool is missing")):
        GroupFiles(other).groups("train")
    with pytest.raises(UserError, match=re.escape(f'{other}: no split "test"')):
        load_prepared(other, "test")
    row = dict.fromkeys(MATH_ROW, "x") | {"positive_pool": "[]", "negative_bank": "[{]"}
    torn = str(write_prepared("torn", list(row), {"train": [row]}, tmp_path))
    with pytest.raises(UserError, match="^" + re.escape(f"{torn}:train:1: field positive_pool or negative_bank")):
        load_prepared(torn, "train")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda f: GroupFiles(f["train"]).groups("dev"), 'split "dev": there are "train" and "test"'),
        (lambda f: GroupFiles(""), "GroupFiles.train must name"),
        (lambda f: GroupFiles("a", dev_share=1.0), "GroupFiles.dev_share must lie between 0 and 1, got 1.0"),
        (lambda f: GroupFiles(f["train"], f["train"]).groups("test"), "30 of its problems are also in"),
        (lambda f: GroupFiles(f["test"], dev_share=0.05).groups("train"), "of 6 groups, .* holds out 0; give"),
        (lambda f: GroupFiles(f["test"], dev_share=0.95).groups("train"), "of 6 groups, .* holds out 6; give"),
        (lambda f: GroupFiles("no such").groups("train"), "no such: no such file"),
    ],
)
def test_wrong_sources_are_one_line(files, make, message):
    with pytest.raises(UserError, match=message) as error:
        make(files)
    one_line(error)


def test_tensorflow_is_never_imported(files, prepared, tmp_path):
    program = f"""
import sys

class WithoutTensorFlow:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] == "tensorflow" else self.finder.find_spec(name, path, target)

sys.meta_path[:] = map(WithoutTensorFlow, sys.meta_path)  # as if it were not installed, also where it is
from tracelift_jax.groups import load_groups
from tracelift_jax.groups.load import GroupFiles, prepare_groups

assert len(load_groups({files["train"]!r})) == 30
assert "tensorflow_datasets" not in sys.modules, "imported where files are read"
assert len(GroupFiles({prepared!r}, {prepared!r}).groups("test")) == 6
prepare_groups({{"train": {files["train"]!r}}}, {str(tmp_path / "out")!r})
assert not [name for name in sys.modules if name.partition(".")[0] == "tensorflow"]
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
