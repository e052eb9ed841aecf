"""Benchmarks in the formats they are published in, each read by hand; whole files where shared data has them."""

import gzip
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from tracelift_jax.errors import UserError
from tracelift_jax.tasks.files import Fields, JsonlTask
from tracelift_jax.tasks.problem import Problem
from tracelift_jax.text.numbers import number_of

GSM8K = {"question": " How many? ", "answer": "She has 3*4=<<3*4=12>>12.\nTwice: <<12*2=24>>24\n#### 24"}


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def only(folder: Path, row: dict, fields, **more) -> Problem:
    (problem,) = JsonlTask(test=write(folder / "rows.jsonl", [row]), fields=fields, **more).problems("test")
    return problem


def refused(folder: Path, row: dict, fields) -> str:
    with pytest.raises(UserError) as caught:
        only(folder, row, fields)
    [line] = str(caught.value).splitlines()
    return line.removeprefix(f"{folder / 'rows.jsonl'}:1: ")


# ------------------------------------------------------------------------------------------------------- each benchmark


def test_gsm8k(tmp_path):
    assert only(tmp_path, GSM8K, "gsm8k") == Problem(
        problem_id="gsm8k/test/0",
        text="How many?",
        answer="24",
        reasoning="She has 3*4=12.\nTwice: 24",
        task_type="math",
        task_name="math",
        answer_kind="number",
    )
    assert only(tmp_path, {"question": "How many?", "answer": "#### 7"}, "gsm8k").reasoning == ""


def test_math(tmp_path):
    row = {
        "problem": "Evaluate $\\frac{1}{2}+\\frac{1}{4}$.",
        "level": "Level 2",
        "type": "Prealgebra",
        "solution": "Not $\\boxed{1}$ but $\\frac{2}{4}+\\frac{1}{4}=\\boxed{\\frac{3}{4}}.$",
    }
    assert only(tmp_path, row, "math") == Problem("math/test/0", row["problem"], "3/4", row["solution"])
    radical = row | {"solution": "It is $\\boxed{3\\sqrt{13}}$."}
    assert only(tmp_path, radical, "math") == Problem(
        "math/test/0", row["problem"], "3\\sqrt{13}", radical["solution"], answer_kind="latex"
    )
    assert refused(tmp_path, row | {"solution": "It is 3."}, "math") == 'no "answer", and no \\boxed{...} in "solution"'
    assert refused(tmp_path, {"problem": "1+1"}, "math").startswith('no "solution"; every row needs')


def test_math500(tmp_path):
    row = {
        "problem": "Convert the point $(0,3)$ to polar coordinates.",
        "solution": "They are $\\boxed{\\left( 3, \\frac{\\pi}{2} \\right)}.$",
        "answer": "\\left( 3, \\frac{\\pi}{2} \\right)",
        "subject": "Precalculus",
        "level": 2,
        "unique_id": "test/precalculus/807.json",
    }
    assert only(tmp_path, row, "math500") == Problem(
        "math500/test/precalculus/807.json", row["problem"], row["answer"], row["solution"], answer_kind="latex"
    )
    degrees = row | {"answer": "90^\\circ", "solution": "No box."}
    assert only(tmp_path, degrees, "math500").answer == "90"
    assert only(tmp_path, degrees | {"solution": ""}, "math500").reasoning == ""


SVAMP = {
    "ID": "chal-12",
    "Body": "They decided to hold the party in their backyard. If they have 11 sets and each set has 13 chairs",
    "Question": "How many chairs do they have in the backyard?",
    "Equation": "( 11.0 * 13.0 )",
    "Answer": 143.0,
    "Type": "Multiplication",
}


def test_svamp(tmp_path):
    assert only(tmp_path, SVAMP, "svamp") == Problem(
        "svamp/chal-12",
        "They decided to hold the party in their backyard. If they have 11 sets and each set has 13 chairs "
        "How many chairs do they have in the backyard?",
        "143",
        "( 11.0 * 13.0 )",
    )
    assert only(tmp_path, SVAMP | {"Answer": "143.0"}, "svamp").answer == "143"
    (tmp_path / "SVAMP.json").write_text(json.dumps([SVAMP, SVAMP | {"ID": "chal-13"}], indent=4))
    problems = JsonlTask(test=str(tmp_path / "SVAMP.json"), fields="svamp").problems("test")
    assert [p.problem_id for p in problems] == ["svamp/chal-12", "svamp/chal-13"]


def test_mawps(tmp_path):
    row = {"input": "Joan found 70 seashells . She has 27 . How many did she give to Sam ?", "target": 43.0}
    assert only(tmp_path, row, "mawps") == Problem("mawps/test/0", row["input"], "43")
    assert only(tmp_path, row | {"target": 39}, "mawps", name="addsub") == Problem("addsub/test/0", row["input"], "39")


@pytest.mark.parametrize(
    ("target", "answer"),
    [("-9867630.0", "-9867630"), ("1.0e+30", "1" + 30 * "0"), ("-0.5", "-0.5"), ("3244047.0999999996",) * 2],
)
def test_gsm_hard(tmp_path, target, answer):
    file = tmp_path / "gsmhardv2.jsonl"
    file.write_text(f'{{"input": "How much?", "code": "def solution():\\n    return 1", "target": {target}}}\n')
    assert JsonlTask(test=str(file), fields="gsm_hard").problems("test") == (
        Problem("gsm_hard/test/0", "How much?", answer),
    )


def test_gsm_plus(tmp_path):
    row = {
        "question": "What is the average height of heels at this party?",
        "solution": "60 inches + 20 inches = <<60+20=80>>80 inches\n80 / 25 = <<80/25=3.2>>3.2 inches\n#### 3.2",
        "answer": "3.2",
        "perturbation_type": "digit expansion",
        "seed_question": "What?",
        "seed_solution": "#### 3",
        "seed_answer": "3",
    }
    steps = "60 inches + 20 inches = 80 inches\n80 / 25 = 3.2 inches"
    assert only(tmp_path, row, "gsm_plus") == Problem("gsm_plus/test/0", row["question"], "3.2", steps)
    unknown = row | {"solution": "We don't know. \n#### None", "answer": "None"}
    assert only(tmp_path, unknown, "gsm_plus") == Problem(
        "gsm_plus/test/0", row["question"], "None", "We don't know.", answer_kind="latex"
    )
    unmarked = row | {"solution": "20*4=<<20*4=80>>80", "answer": 80}
    assert only(tmp_path, unmarked, "gsm_plus") == Problem("gsm_plus/test/0", row["question"], "80", "20*4=80")


def test_gsm_symbolic(tmp_path):
    row = {"id": 0, "instance": 49, "original_id": 473, "original_question": "?", "original_answer": "#### 1"}
    assert only(tmp_path, row | GSM8K, "gsm_symbolic") == Problem(
        "gsm_symbolic/0/49", "How many?", "24", "She has 3*4=12.\nTwice: 24"
    )


def test_rows_of_ones_own(tmp_path):
    row = {"key": "a-1", "q": "How many?", "hint": "Count.", "a": "1,080", "why": " By counting. "}
    fields = Fields(problem=("q", "hint"), answer="a", reasoning="why", problem_id=("key",))
    assert only(tmp_path, row, fields) == Problem("jsonl/a-1", "How many? Count.", "1080", "By counting.")
    assert only(tmp_path, row, fields, name="mine").problem_id == "mine/a-1"
    assert only(tmp_path, {"problem": "1+1?", "answer": 2}, Fields()) == Problem("jsonl/test/0", "1+1?", "2")
    assert only(tmp_path, {"problem": "Where?", "answer": "at home"}, Fields()).answer_kind == "latex"
    del row["why"]
    assert only(tmp_path, row, fields).reasoning == ""
    alike = {"problem_id": "a", "problem": "?", "answer": 5, "answer_kind": "word"}  # as rows of prepared data sets are
    assert only(tmp_path, alike, Fields()) == Problem("jsonl/test/0", "?", "5")


# -------------------------------------------------------------------------------------------------------- what is wrong

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
    bad = {key: value for key, value in (GSM8K | change).items() if value is not None}
    path = tmp_path / "data.jsonl"
    path.write_text(f"{json.dumps(GSM8K)}\n\n{json.dumps(bad)}\n")
    with pytest.raises(UserError, match="^" + re.escape(f"{path}:3: {message}") + "$"):
        JsonlTask(str(path), fields="gsm8k").problems("train")


@pytest.mark.parametrize(
    ("row", "fields", "message"),
    [
        ({"problem": "?"}, Fields(), 'no "answer"; every row needs an answer "answer"'),
        ({"problem": "?", "answer": None}, Fields(), 'no "answer"; every row needs an answer "answer"'),
        ({"problem": "?", "answer": True}, Fields(), '"answer" holds no answer; it should be a number or a text'),
        ({"problem": "?", "answer": " "}, Fields(), '"answer" holds no answer; it should be a number or a text'),
        ({"problem": "?", "answer": [1]}, Fields(), '"answer" holds no answer; it should be a number or a text'),
        ({"problem": "?", "answer": "a\ud800"}, Fields(), '"answer" holds half of a surrogate pair'),
        ({"problem": "?", "answer": 1, "r": 5}, Fields(reasoning="r"), 'no "r"; every row needs a non-empty text'),
        ({"problem": "?", "answer": 1, "id": ""}, Fields(problem_id=("id",)), 'no "id"; every row needs a non-empty'),
        ({"problem": "?", "answer": 1, "id": True}, Fields(problem_id=("id",)), 'no "id"; every row needs'),
        (SVAMP | {"Body": ""}, "svamp", 'no "Body"; every row needs'),
    ],
)
def test_what_a_row_lacks(tmp_path, row, fields, message):
    assert refused(tmp_path, row, fields).startswith(message)


def test_an_array_names_its_row(tmp_path):
    file = tmp_path / "SVAMP.json"
    file.write_text(json.dumps([SVAMP, SVAMP | {"Answer": None}], indent=1))
    with pytest.raises(UserError, match=re.escape(f'{file}:row 2: no "Answer"')):
        JsonlTask(test=str(file), fields="svamp").problems("test")


def test_two_rows_of_one_name(tmp_path):
    file = write(tmp_path / "a.jsonl", [SVAMP, SVAMP | {"Answer": 1}])
    with pytest.raises(UserError, match=re.escape(f'{file}:2: the problem id "svamp/chal-12" is also at {file}:1')):
        JsonlTask(test=file, fields="svamp").problems("test")


def test_splits(tmp_path):
    train, test = write(tmp_path / "a.jsonl", [GSM8K] * 3), write(tmp_path / "b.jsonl", [GSM8K] * 2)
    task = JsonlTask(train, test, "gsm8k")
    assert [p.problem_id for p in task.problems("train")] == [f"gsm8k/train/{i}" for i in range(3)]
    assert [p.problem_id for p in task.problems("test")] == [f"gsm8k/test/{i}" for i in range(2)]
    assert task.problems("train") == task.problems("train")
    assert (task.splits, task.title) == (("train", "test"), "gsm8k")
    with pytest.raises(UserError, match=r'^split "dev": there are "train" and "test"$'):
        task.problems("dev")
    svamp = JsonlTask(test=test, fields="svamp")
    assert svamp.splits == ("test",)
    with pytest.raises(UserError, match=r'^JsonlTask.train names no file: svamp has no split "train" here$'):
        svamp.problems("train")


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (JsonlTask, {}, "JsonlTask.train and JsonlTask.test name no file; give at least one"),
        (
            JsonlTask,
            {"train": "a", "fields": "swamp"},
            "JsonlTask.fields: expected Fields or one of .*did you mean 'svamp'",
        ),
        (JsonlTask, {"train": "a", "name": "GSM 8K"}, "JsonlTask.name must be of lower-case letters.*'GSM 8K'"),
        (Fields, {"problem": ()}, "Fields.problem must name at least one field"),
        (Fields, {"problem": "q"}, "Fields.problem: expected tuple of str"),
        (Fields, {"answer": ""}, 'Fields.answer must name a field where Fields.steps = "plain"'),
        (Fields, {"steps": "boxed"}, 'Fields.reasoning must name a field where Fields.steps = "boxed"'),
    ],
)
def test_wrong_values(kind, values, message):
    with pytest.raises(UserError, match=f"^{message}"):
        kind(**values)


# ---------------------------------------------------------------------------------------------------------- whole files

SHARED = [
    ("gsm8k/train.jsonl.gz", "gsm8k", 7473),
    ("gsm8k/test.jsonl", "gsm8k", 1319),
    ("mawps/multiarith.jsonl", "mawps", 600),
    ("mawps/addsub.jsonl", "mawps", 395),
    ("mawps/singleop.jsonl", "mawps", 562),
    ("mawps/singleeq.jsonl", "mawps", 508),
]


@pytest.mark.parametrize(("file", "layout", "count"), SHARED)
def test_shared_files_load_whole(shared_data, file, layout, count):
    problems = JsonlTask(test=str(shared_data / file), fields=layout).problems("test")
    assert len(problems) == len({p.problem_id for p in problems}) == count
    assert Counter(p.answer_kind for p in problems) == {"number": count}
    assert all(re.fullmatch(r"-?\d+(\.\d*[1-9])?", p.answer) for p in problems)
    assert all(number_of(answer).found for answer in {p.answer for p in problems})
    assert all(bool(p.reasoning) == (layout == "gsm8k") for p in problems)


def test_answers_of_gsm8k(shared_data):
    train = gzip.decompress((shared_data / "gsm8k" / "train.jsonl.gz").read_bytes()).decode()
    test = (shared_data / "gsm8k" / "test.jsonl").read_text()
    task = JsonlTask(str(shared_data / "gsm8k/train.jsonl.gz"), str(shared_data / "gsm8k/test.jsonl"), "gsm8k")
    for split, text, with_commas in (("train", train, 79), ("test", test, 14)):
        finals = [json.loads(line)["answer"].split("#### ")[1] for line in text.splitlines()]
        problems = task.problems(split)
        assert [p.answer for p in problems] == [str(int(final.replace(",", ""))) for final in finals]
        assert sum("," in final for final in finals) == with_commas
        assert not any(re.search("<<|>>|####", p.reasoning) for p in problems)


@pytest.mark.parametrize("file", ["multiarith", "addsub", "singleop", "singleeq"])
def test_answers_of_mawps(shared_data, file):
    path = shared_data / "mawps" / f"{file}.jsonl"
    targets = [re.findall(r'"target": ?([-0-9.]+)}', line)[0] for line in path.read_text().splitlines()]
    problems = JsonlTask(test=str(path), fields="mawps").problems("test")
    assert [p.answer for p in problems] == [re.sub(r"\.0$", "", target) for target in targets]
