"""What counts as a flawed trace, where its flaw lies, and how answers and grades are read."""

import json

import hypothesis
import hypothesis.strategies as st
import pydantic
import pytest

from tracelift_jax.groups.answer_cache import Reply
from tracelift_jax.groups.build import ENGINES
from tracelift_jax.groups.filters import FAULTS, Filter, changed
from tracelift_jax.groups.flaw_prompts import DIMENSIONS, KINDS, grading_prompt, writing_prompt
from tracelift_jax.groups.graders import to_rubric
from tracelift_jax.groups.replies import Unusable, read_reply
from tracelift_jax.groups.schema import DIMENSIONS as NAMES
from tracelift_jax.groups.seeds import Seed

POSITIVE = "She sold 48/2 = 24 clips in May.\nShe sold 48+24 = 72 clips in all."
SEED = Seed("p", "gsm8k", "math", "Natalia sold 48 clips in April and half as many in May.", POSITIVE, "72")
MATH = Filter(SEED, POSITIVE, ("wrong_operation", "dropped_step"), True)
PROGRAM = "import sys\nn = 3\nfor line in sys.stdin:\n    total += int(line)\nprint(total)"
CODE = Filter(
    Seed("c", "code", "code", "Add the numbers.", "", PROGRAM, "code"), "Read each line and add it up.", ("x_y",), True
)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("She sold 48/2 = 26 clips in May.", ""),
        (" \n", "empty"),
        ("It is 72.", "too short"),
        ("It comes: 72", ""),  # 12 letters
        (POSITIVE, "duplicate"),
        (POSITIVE.upper().replace(" ", "\n"), "duplicate"),
        ("ANOTHER   version\nof it", "duplicate"),
        ("... ... ... ... ...", "placeholder"),
        ("-- ?! -- ?! --", "placeholder"),
        ("She sold 48/2 = 24 clips in May.\n...\n", "placeholder"),
        ("She sold 48/2 = 24 clips in May.\n  …", "placeholder"),
        ("She sold 1+2+...+9 = 45 clips ... in May.", ""),
        (f"<reasoning>{POSITIVE}x</reasoning>", "placeholder"),
        ("TODO: write the flawed version", "placeholder"),
        ("Todo lists are sold, 48/2 = 24 of them.", ""),
        ("<the whole flawed reasoning>", "placeholder"),
        ("[Your reasoning here]", "placeholder"),
        ("(same as before, but 48+24 = 73)", "placeholder"),
        ("She sold 24. The rest of the reasoning is unchanged.", "placeholder"),
        ("wrong_operation: She sold 48-2 = 46 clips.", "placeholder"),
        ("She sold 24 and [therefore] 48+24 = 72 (the same).", ""),
        ("import the 48 clips\nThen ```add```", ""),  # a leak of code is a matter of programs
    ],
)
def test_faults_of_math(text, fault):
    assert MATH.fault(text, ["another version of it"]) == fault
    assert fault == "" or fault in FAULTS


def test_what_the_positive_holds_is_no_placeholder():
    text = "Let <reasoning> be a tag.\n...\nIt has 11 letters."
    wanted = Filter(SEED, text, (), False)
    assert wanted.fault(text.replace("11", "12"), []) == ""
    assert wanted.fault("TODO " + text, []) == "placeholder"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("Read each line and subtract it.", ""),
        ("Read it so:\n```\nx\n```", "leaks code"),
        ("First this:\n  def add(x):\nand so on", "leaks code"),
        ("First this:\nimport numpy\nand so on", "leaks code"),
        ("First this:\nfrom collections import deque\nand so on", "leaks code"),
        ("Of each line:\ntotal += int(line)\nand so on", "leaks code"),
        ("Of each line: total += int(line) and so on", ""),
        ("We import it, from each line; n = 3\nn = 3", ""),
        ("from the left to the right, import nothing", ""),
    ],
)
def test_faults_of_programs(text, fault):
    assert CODE.fault(text, []) == fault
    assert Filter(CODE.seed, CODE.positive, CODE.kinds, False).fault(text, []) == ""


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ("a 24 b", "a 26 b", "26"),
        ("a 24 b 24 c", "a 26 b 26 c", "26 b 26"),
        ("a b c", "a c", ""),
        ("a c", "a b c", "b "),
        ("a b", "a b c", " c"),
        ("b c", "a b c", "a "),
        ("a a", "a a a", " a"),
        ("a b", "x y", "x y"),
        ("48-2 = 46", "48+2 = 50", "48+2 = 50"),
    ],
)
def test_where_a_text_differs(old, new, where):
    begin, end = changed(old, new)
    assert new[begin:end] == where


def test_a_gap_lies_where_something_is_missing():
    assert changed("one. two. three.", "one. three.") == (5, 5)
    assert changed("one. two.", "one.") == (4, 4)


WORDS = st.lists(st.sampled_from(["a", "b", " ", "\n", "cc"]), max_size=8).map("".join)


@hypothesis.given(WORDS, WORDS)
def test_outside_the_difference_the_texts_agree(old, new):
    begin, end = changed(old, new)
    assert 0 <= begin <= end <= len(new)
    assert old.startswith(new[:begin]) and old.endswith(new[end:])
    assert begin + len(new) - end <= len(old)
    assert old != new or begin == end


class Shape(pydantic.BaseModel):
    name: str
    grade: int


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"name": "a", "grade": 1}', ""),
        ('<think>{"name"}</think>\nHere:\n```json\n{"name": "a", "grade": 1}\n```\nBye', ""),
        ('{"name": "a", "grade": 1, "more": []}', ""),
        ("", "empty"),
        ("<think>hm</think>  ", "empty"),
        ("no", "not JSON"),
        ("}{", "not JSON"),
        ('{"name": "a" "grade": 1}', "not JSON"),
        ("{" * 100_000 + "}", "not JSON"),
        ('{"a":' * 100_000 + "}" * 100_000, "not JSON"),
        ('{"name": "a"}', "missing field"),
        ('{"name": 3, "grade": 1}', "wrong field"),
        ('{"name": "a", "grade": null}', "wrong field"),
        ("[1]", "not JSON"),
    ],
)
def test_reading_an_answer(text, reason):
    if reason:
        with pytest.raises(Unusable) as caught:
            read_reply(Reply(text, "stop", 0, 0), Shape)
        assert caught.value.reason == reason
    else:
        assert read_reply(Reply(text, "stop", 0, 0), Shape) == Shape(name="a", grade=1)


def test_an_answer_that_was_cut():
    with pytest.raises(Unusable) as caught:
        read_reply(Reply('{"name": "a", "gr', "length", 0, 0), Shape)
    assert caught.value.reason == "cut short"
    # A line break inside a string is what many models write.
    assert read_reply(Reply('{"name": "a\nb", "grade": 1}', "length", 0, 0), Shape).name == "a\nb"


@pytest.mark.parametrize("name", ["math", "code"])
def test_labels_of_grades(name):
    fields = NAMES[name]
    rubric = to_rubric(name, {**dict(zip(fields, (0, 1.9, 2, 7.99, 10), strict=True)), "overall": 7.3})
    assert (rubric.dimensions, rubric.total) == ((0, 0, 1, 3, 4), 0.73)
    rubric = to_rubric(name, {**dict(zip(fields, (9.9, 8, 6, 5, 4), strict=True)), "overall": 0})
    assert (rubric.dimensions, rubric.total) == ((4, 4, 3, 2, 2), 0.0)


def test_every_kind_and_dimension_is_explained():
    for name, engine in ENGINES.items():
        assert set(engine.kinds) <= set(KINDS[name])
    assert {name: tuple(asked) for name, asked in DIMENSIONS.items()} == NAMES


def test_the_prompts():
    prompt = writing_prompt(SEED, POSITIVE, ["dropped_step"], 1, [])
    for part in (
        SEED.problem,
        f"\n\n{POSITIVE}\n\n",
        "- `dropped_step`: one step that later steps need",
        '{"traces": [',
    ):
        assert prompt.count(part) == 1
    assert "attempt" not in prompt and "Tests" not in prompt and "`wrong_operation`" not in prompt
    assert "This is attempt 3" in writing_prompt(SEED, POSITIVE, ["dropped_step"], 3, ["it is empty"])
    seed = Seed("c", "code", "code", "Add.", "", "print(1)", "code", "assert f(1) == 2")
    prompt = grading_prompt(seed, "Add them.", 2, ["non_leakage: out of range"])
    for part in (
        "assert f(1) == 2",
        "print(1)",
        "\n\nAdd them.\n\n",
        "\n- non_leakage: out of range",
        "This is attempt 2",
    ):
        assert prompt.count(part) == 1
    shape = json.loads(prompt.partition("nothing else:\n\n")[2].partition("\n\n")[0].replace("<number>", "1"))
    assert tuple(shape) == (*NAMES["code"], "overall")
    assert "## A correct program" not in grading_prompt(Seed("c", "", "", "Add.", "", "", "code"), "Add them.", 1, [])
