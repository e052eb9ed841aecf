"""Gin files and flags in, exact values or exact one-line refusals out."""

import dataclasses
import json
import os
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import gin
import gin_fixture as fixture  # pytest puts this folder on the path, where gin finds it too
import pytest
from gin_fixture import DialTask, Train
from hypothesis import given
from hypothesis import strategies as st

from tracelift_jax.checked import check_types, first_difference, to_jsonable
from tracelift_jax.errors import UserError
from tracelift_jax.gin_config import load, parse_flags

HEAD = "from __gin__ import dynamic_registration\nimport gin_fixture as fix\n"  # so bodies begin at line 3
ONE = ["Train.steps=1"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name: str, body: str, head: str = HEAD) -> str:
    os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
    with open(name, "w", encoding="utf-8") as file:
        file.write(head + body)
    return name


def loaded(body: str, *flags: str) -> Any:
    """Loads run.gin, then checks that its operative config alone gives the same value."""
    first = load(Train, [write("run.gin", body)], flags)
    again = load(Train, [write("operative.gin", first.operative, head="")])
    assert again == first
    return first.value


def refusal(body: str, *flags: str, root: type = Train, head: str = HEAD) -> str:
    with pytest.raises(UserError) as error:
        load(root, [write("run.gin", body, head)], flags)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


@pytest.mark.parametrize(
    ("body", "flags", "value"),
    [
        ("fix.Train.steps = 3", [], Train(3)),
        ("STEPS = 80\nfix.Train.steps = %STEPS", ["STEPS=3"], Train(3)),
        ("STEPS = 80\nfix.Train.steps = %STEPS", ["STEPS=3", "STEPS=4"], Train(4)),
        ("STEPS = %gin.REQUIRED\nfix.Train.steps = %STEPS", ["STEPS=3"], Train(3)),
        ("fix.Train.steps = %STEPS", ["STEPS=3"], Train(3)),
        ("A = %B\nB = 7\nfix.Train.steps = %A", [], Train(7)),
        ("STEPS = 80\nfix.Train.steps = %STEPS\nfix.Train.steps = 5", [], Train(5)),
        ("fix.Train:\n  steps = 4\n  betas = [1, 2]", ["Train.rate=2"], Train(4, rate=2.0, betas=(1.0, 2.0))),
        ("fix.Train.task = @fix.DialTask()\nfix.DialTask.seed = 4", ONE, Train(1, task=DialTask(4))),
        ("T = @fix.DialTask()\nfix.Train.task = %T\nfix.DialTask.seed = 4", ONE, Train(1, task=DialTask(4))),
        ("fix.Train.task = @a/fix.DialTask()\na/fix.DialTask.seed = 4", ONE, Train(1, task=DialTask(4))),
        ("", [*ONE, "Train.task=@fix.DialTask()", "fix.DialTask.seed=9"], Train(1, task=DialTask(9))),
        # What a file says of a part that a flag takes away.
        (
            "fix.Train.task = @fix.DialTask()\nfix.DialTask.seed = 4",
            [*ONE, "Train.task=@b/fix.DialTask()", "b/fix.DialTask.seed=3"],
            Train(1, task=DialTask(3)),
        ),
        (
            "T = @a/fix.DialTask()\nfix.Train.task = %T\na/fix.DialTask.seed = 4",
            [*ONE, "Train.task=@fix.DialTask()"],
            Train(1, task=DialTask()),
        ),
        ("", [*ONE, "fix.Train.run=../path/to/dir"], Train(1, run="../path/to/dir")),
        ("", [*ONE, "fix.Train.run=2024-01-01"], Train(1, run="2024-01-01")),
        ("", [*ONE, "fix.Train.run=7B"], Train(1, run="7B")),
        ("", [*ONE, "fix.Train.run=a=b"], Train(1, run="a=b")),
        ("", [*ONE, "fix.Train.run="], Train(1, run="")),
        ("", [*ONE, "fix.Train.run='12'"], Train(1, run="12")),
        ("", [*ONE, "fix.Train.limit=-2", "fix.Train.resume=True"], Train(1, limit=-2, resume=True)),
        ("", [*ONE, "fix.Train.betas=(1e-2,)"], Train(1, betas=(0.01,))),
    ],
)
def test_values(body, flags, value):
    assert loaded(body, *flags) == value


def cases(text: str) -> list[Any]:
    """Splits REFUSALS into (body, flags, message)."""
    found = []
    for block in text.strip().split("\n\n"):
        *lines, message = block.split("\n")
        if message.startswith("> "):
            flags = [line.removeprefix("--gin.") for line in lines if line.startswith("--gin.")]
            body = "\n".join(line for line in lines if not line.startswith("--gin."))
            found.append(pytest.param(body, flags, message[2:], id=message[2:]))
    return found


# What follows line 2 of run.gin, then flags, then what `load` says.
REFUSALS = r"""
# Names.

fix.Train.stepz = 1
> run.gin:3: fix.Train has no field 'stepz'; did you mean 'steps'?

fix.Train:
  rat = 2
> run.gin:4: fix.Train has no field 'rat'; did you mean 'rate'?

fix.Train.self = 1
> run.gin:3: fix.Train has no field 'self'

# A comment is a line too.
fix.Trian.steps = 1
> run.gin:4: fix has no 'Trian'; did you mean 'Train'?

fxi.Train.steps = 1
> run.gin:3: fxi.Train: nothing named 'fxi' is imported; did you mean 'fix'?

Train.steps = 1
> run.gin:3: Train: nothing named 'Train' is imported; imported are: fix

fix.steps = 1
> run.gin:3: fix is not a class or function

fix.Train.task = @fix.DailTask()
> run.gin:3: fix has no 'DailTask'; did you mean 'DialTask'?

fix.Train.betas = [
  1,
  @fix.DialTsk()]
> run.gin:5: fix has no 'DialTsk'; did you mean 'DialTask'?

--gin.fix.Train.task=@fix.DailTask()
> --gin.fix.Train.task=@fix.DailTask(): fix has no 'DailTask'; did you mean 'DialTask'?

--gin.Trane.steps=1
> --gin.Trane.steps=1: Trane: nothing named 'Trane' is imported; imported are: fix

# Imports and includes.

import gin_fixtur
> run.gin:3: there is no module 'gin_fixtur'; did you mean 'gin_fixture'?

from tracelift_jax import eror
> run.gin:3: there is no module 'tracelift_jax.eror'; did you mean 'errors'?

from gin_fixture import Train
> run.gin:3: gin_fixture.Train is not a module: import gin_fixture, and write its name before .Train

from __gin__ import dynamic
> run.gin:3: gin has no '__gin__.dynamic'; write 'from __gin__ import dynamic_registration'

import gin
> run.gin:3: the name gin is taken by gin itself: import the module `as` another name

include 'rum.gin'
> run.gin:3: include 'rum.gin' does not exist; did you mean 'run.gin'?

include 'run.gin'
> run.gin: this file includes itself: run.gin -> run.gin

# Syntax.

fix.Train.run = abc
> run.gin:3: abc is not a value: strings need quotes, macros a %, and it is True, False, None

fix.Train.betas = (1,
> run.gin:3: the file ends inside a value: close the bracket

fix.Train.betas = (1,
    2,
> run.gin:4: the file ends inside a value: close the bracket

fix.Train.run = '''abc
> run.gin:3: the file ends inside a value: close the quotes

fix.Train.steps 3
> run.gin:3: not gin syntax: Couldn't parse statement, expected ':' or '='. In: 'fix.Train.steps 3'

--gin.fix.Train.betas=(1,
> --gin.fix.Train.betas=(1,: the value is not gin syntax (a shell may have taken its quotes)

--gin.STEPS
> --gin.STEPS needs a value: --gin.STEPS=...

--gin.9=3
> --gin.9=3: '9' is not a name; write --gin.STEPS=10 or --gin.config.Train.steps=10

# Macros.

fix.Train.steps = %STEPZ
STEPS = 3
> run.gin:3: macro %STEPZ is not defined; did you mean 'STEPS'?

fix.Train.steps = %STEPS
> run.gin:3: macro %STEPS is not defined: give --gin.STEPS=...

fix.Train.steps = %STEPS
STEPS = 3
--gin.STEPZ=4
> --gin.STEPZ=4: nothing uses the macro STEPZ; did you mean 'STEPS'?

fix.Train.steps = 1
RUN = 'a'
> run.gin:4: nothing uses the macro RUN

S = 8
fix.Train.steps = %S
fix.Train.steps = 5
--gin.S=3
> --gin.S=3: nothing uses the macro S

A = %B
B = %A
fix.Train.steps = %A
> run.gin:3: the macro A refers to itself

STEPS = %gin.REQUIRED
fix.Train.steps = %STEPS
> STEPS has no value: give --gin.STEPS=... (run.gin:3 asks for it)

fix.Train.steps = %gin.REQUIRED
> fix.Train.steps has no value: give --gin.fix.Train.steps=... (run.gin:3 asks for it)

fix.Train.rate = 1
> Train.steps has no value: bind it in a gin file, or give --gin.Train.steps=...

# Values: the place is where the value is written, macros followed.

fix.Train.steps = '10'
> run.gin:3: Train.steps: expected int, got '10' (str)

S = '10'
fix.Train.steps = %S
> run.gin:3: Train.steps: expected int, got '10' (str)

S = 1
fix.Train.steps = %S
--gin.S=ten
> --gin.S=ten: Train.steps: expected int, got 'ten' (str)

fix.Train.steps = 0
> run.gin:3: Train.steps must be at least 1, got 0

fix.Train.steps = 1
fix.Train.task = @fix.DialTask
> run.gin:4: Train.task: expected Task, got the class DialTask; in gin write @DialTask(), with parentheses

--gin.Train.steps=1
--gin.Train.run=7
> --gin.Train.run=7: Train.run: expected str, got 7 (int); a string needs quotes: "'7'"

# Bindings that nothing uses.

fix.Train.task = @a/fix.DialTask()
fix.DialTask.seed = %SEED
a/fix.DialTask.seed = 4
--gin.SEED=5
--gin.Train.steps=1
> --gin.SEED=5: SEED changes nothing: nothing that uses it is part of this Train

fix.Train.steps = 1
fix.DialTask.seed = 3
> run.gin:4: fix.DialTask.seed changes nothing: no fix.DialTask is part of this Train

fix.Train.steps = 1
--gin.a/fix.Train.steps=3
> --gin.a/fix.Train.steps=3: a/fix.Train.steps changes nothing: no a/fix.Train is part of this Train

fix.Train.task = @a/fix.DialTask()
a/fix.DialTask.seed = 3
--gin.Train.task=@b/fix.DialTask()
--gin.Train.steps=1
--gin.a/fix.DialTask.seed=4
> --gin.a/fix.DialTask.seed=4: a/fix.DialTask.seed changes nothing: no a/fix.DialTask is part of this Train

fix.Train.task = @a/fix.DialTask()
c/fix.DialTask.seed = 3
--gin.Train.task=@b/fix.DialTask()
--gin.Train.steps=1
> run.gin:4: c/fix.DialTask.seed changes nothing: no c/fix.DialTask is part of this Train

S = 2
fix.Train.steps = 1
b/fix.Train.steps = %S
> run.gin:5: b/fix.Train.steps changes nothing: no b/fix.Train is part of this Train

fix.Train.steps = 1
fix.Train.task = @fix.DialTask()
fix.DialTask.inner = @fix.DialTask()
> Train never ends: some @reference leads back to itself
"""


@pytest.mark.parametrize(("body", "flags", "message"), cases(REFUSALS))
def test_refusals(body, flags, message):
    assert refusal(body, *flags) == message


def test_files_that_are_not_there_or_not_gin(folder):
    with pytest.raises(UserError, match=r"^gin file 'rum.gin' does not exist; did you mean 'run.gin'\?$"):
        load(Train, [write("run.gin", "") and "rum.gin"])
    (folder / "binary.gin").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"^binary.gin: this is not a text file$"):
        load(Train, ["binary.gin"])
    assert refusal("Train.steps = 1", head="") == (
        "run.gin:1: Train is unknown: begin the file with `from __gin__ import dynamic_registration`"
    )


def test_a_module_that_is_not_installed(folder, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    write("needs_it.py", "import not_installed_at_all", head="")
    assert refusal("import needs_it") == "run.gin:3: 'import needs_it' failed: not_installed_at_all is not installed"


def test_short_names_of_two_classes_are_ambiguous(folder, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    write("other_config.py", "class Train:\n  def __init__(self, steps=1): pass\n", head="")
    message = refusal("import other_config\nother_config.Train.steps = 1\nfix.Train.steps = 2", "Train.steps=3")
    assert message.startswith("--gin.Train.steps=3: Ambiguous selector 'Train'")


def test_includes_are_found_beside_the_file_in_the_cwd_and_in_the_repository(monkeypatch, folder):
    write("runs/base.gin", "STEPS = 8\nfix.Train.steps = %STEPS")
    write("models/small.gin", "fix.Train.rate = 2.0")
    write("repository/meshes/one.gin", "fix.Train.limit = 3")
    monkeypatch.setattr("tracelift_jax.gin_reader._REPOSITORY", folder / "repository")
    write("runs/run.gin", "include 'base.gin'\ninclude 'models/small.gin'\ninclude 'meshes/one.gin'\nSTEPS = 9")
    assert load(Train, ["runs/run.gin"]).value == Train(9, rate=2.0, limit=3)
    files, flags = ["runs/run.gin", write("more.gin", "STEPS = 10")], ["RATE=1", "Train.rate=%RATE"]
    assert load(Train, files, flags).value == Train(10, rate=1.0, limit=3)
    write("runs/base.gin", "fix.Train.steps = 'many'")
    write("runs/run.gin", "include '../runs/base.gin'")
    with pytest.raises(UserError, match=r"^runs/base.gin:3: Train.steps: expected int, got 'many' \(str\)$"):
        load(Train, ["runs/run.gin"])


def test_the_root_is_built_once_and_operative_holds_the_defaults():
    fixture.BUILT.clear()
    found = load(Train, [], ["Train.steps=3"])
    assert found.value == Train(3) and type(found.value) is Train
    assert fixture.BUILT == ["Train", "Train"]  # the second is the line above
    lines = found.operative.splitlines()
    assert lines[:2] == ["from __gin__ import dynamic_registration", "import gin_fixture"]
    assert "gin_fixture.Train.steps = 3" in lines and "gin_fixture.Train.rate = 0.001" in lines


def test_loads_do_not_see_each_other():
    text = load(Train, [write("run.gin", "fix.Train.steps = 3")]).operative
    other = "from __gin__ import dynamic_registration\nimport gin_fixture\ngin_fixture.Train.steps = 5\n"
    assert load(Train, [write("other.gin", other, head="")]).value == Train(5)
    refusal("fix.Train.steps = 'x'")
    assert load(Train, [write("run.gin", "fix.Train.steps = 3")]).operative == text
    assert gin.config_str() == "" and not gin.config._INVERSE_REGISTRY.get(Train)
    assert Train(1).steps == 1


def test_a_bug_in_a_config_class_keeps_its_traceback():
    with pytest.raises(ValueError, match="is not in list"):
        load(fixture.Buggy, [])


@given(st.text("fix.TrainDlTsk=%@()[]{}'\"\\/:,#\n 01-", max_size=40))
def test_any_text_loads_or_is_refused_in_one_line(tmp_path_factory, body):
    path = str(tmp_path_factory.mktemp("fuzz") / "run.gin")
    for files, flags in (([write(path, body)], []), ([write(path, "fix.Train.steps = 1")], [f"Train.run={body}"])):
        try:
            load(Train, files, flags)
        except UserError as error:
            assert len(str(error).splitlines()) == 1


@given(st.text(max_size=200), st.floats(allow_nan=False, allow_infinity=False), st.lists(st.floats(-9, 9)))
def test_operative_config_carries_every_value(tmp_path_factory, run, rate, betas):
    path = str(tmp_path_factory.mktemp("operative") / "run.gin")
    flags = ["Train.steps=1", f"Train.run={run!r}", f"Train.rate={rate!r}", f"Train.betas={betas!r}"]
    first = load(Train, [], flags)
    assert first.value == Train(1, run=run, rate=rate, betas=tuple(betas))
    assert load(Train, [write(path, first.operative, head="")]).value == first.value


def test_parse_flags():
    argv = ["train", "--gin_file=a.gin", "--run_dir=r", "--gin.STEPS=3", "--gin_file", "b.gin", "--gin.A=b=c"]
    expected = (["a.gin", "b.gin"], ["STEPS=3", "A=b=c"], ["train", "--run_dir=r", "--", "--gin.X=1"])
    assert parse_flags([*argv, "--", "--gin.X=1"]) == expected
    for wrong in ("--gin_file", "--gin_file=", "--gin.STEPS", "--gin.=3", "--gin_fiel=a.gin", "--gin-file=a"):
        with pytest.raises(UserError, match=r"^--gin.*--gin"):
            parse_flags([wrong])
    with pytest.raises(UserError, match="needs a file"):
        parse_flags(["--gin_file", "--gin.STEPS=3"])


def held(kind: Any, value: Any) -> Any:
    """What a field `Holder.x` with an annotation makes of a value."""
    namespace = {"__post_init__": check_types}
    return dataclasses.make_dataclass("Holder", [("x", kind)], namespace=namespace, frozen=True)(value).x


class Pair(NamedTuple):
    left: int
    right: int


@pytest.mark.parametrize(
    ("kind", "given_value", "kept"),
    [
        (float, 3, 3.0),
        (int | float, 3, 3),
        (float | None, 3, 3.0),
        (tuple[float, ...], [1, 2], (1.0, 2.0)),
        (tuple[int, str], [1, "a"], (1, "a")),
        (tuple[tuple[int, ...], ...], [[1], []], ((1,), ())),
        (tuple, [1, "a"], (1, "a")),
        (tuple[int, ...], Pair(1, 2), Pair(1, 2)),
        (list[float], (1,), [1.0]),
        (dict[str, float], {"a": 1}, {"a": 1.0}),
        (dict[str, tuple[int, ...]] | None, {"a": [1]}, {"a": (1,)}),
        (Literal["a", 1], 1, 1),
        (Callable[[int], int], abs, abs),
        (Any, [1], [1]),
        (type[Exception], ValueError, ValueError),
        (fixture.Task, DialTask(1), DialTask(1)),
    ],
)
def test_types_that_fit(kind, given_value, kept):
    found = held(kind, given_value)
    assert found == kept and type(found) is type(kept)


@pytest.mark.parametrize(
    ("kind", "wrong", "message"),
    [
        (int, True, "expected int, got True (bool)"),
        (int, 3.0, "expected int, got 3.0 (float)"),
        (float, "1e-3", "expected float, got '1e-3' (str)"),
        (float, 10**400, "it is too large"),
        (str, None, "expected str, got None"),
        (bool, "true", "expected bool, got 'true' (str); write True or False"),
        (int | None, "x", "expected int or None, got 'x' (str)"),
        (Literal["left", "right"], "lefft", "expected one of 'left', 'right', got 'lefft' (str); did you mean 'left'?"),
        (Literal["left"] | None, "LEFT", "expected 'left' or None, got 'LEFT' (str); did you mean 'left'?"),
        (Literal[1, 2], True, "expected one of 1, 2, got True (bool)"),
        (tuple[int, ...], 3, "expected tuple of int, got 3 (int); one value alone is written (3,)"),
        (tuple[int, int], [1], "expected tuple of 2 (int, int), got [1] (list)"),
        (Callable[[int], int], 3, "expected a function, got 3 (int)"),
        (DialTask, fixture.Train, "expected DialTask, got the class Train"),
        (fixture.Task, "dial", "expected Task, got 'dial' (str)"),
    ],
)
def test_types_that_do_not_fit(kind, wrong, message):
    with pytest.raises(UserError) as error:
        held(kind, wrong)
    assert str(error.value).startswith("Holder.x: expected") and message in str(error.value)


def test_the_place_inside_a_container_is_named():
    for kind, wrong, place in [
        (tuple[int, ...] | None, [1, "2"], "Holder.x[1]: expected int"),
        (dict[str, tuple[int, ...]], {"a": [0, None]}, "Holder.x['a'][1]: expected int, got None"),
        (dict[str, int], {3: 1}, "Holder.x key 3: expected str"),
    ]:
        with pytest.raises(UserError) as error:
            held(kind, wrong)
        assert str(error.value).startswith(place)


PLAIN = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=90))


@given(PLAIN, st.sampled_from([int, float, str, bool, type(None)]))
def test_plain_values_fit_their_own_type_and_no_other(value, kind):
    if type(value) is kind:
        assert held(kind, value) is value
    elif kind is float and type(value) is int:
        assert held(kind, value) == float(value)
    else:
        with pytest.raises(UserError, match=r"^Holder.x: expected [^\n]*$"):
            held(kind, value)


def test_first_difference():
    a = to_jsonable(Train(3, task=DialTask(4), betas=(0.5,)))
    assert a["task"] == {"__class__": "DialTask", "seed": 4, "inner": None} and a["betas"] == [0.5]
    assert json.loads(json.dumps(a)) == a and first_difference(a, a) is None
    b = to_jsonable(Train(4, task=DialTask(5), betas=(0.5, 0.6)))
    assert first_difference(a, b) == "steps: 3 and 4"
    assert first_difference(a, b, {"steps"}) == "betas.1: nothing and 0.6"
    assert first_difference(a, b, {"steps", "betas.1"}) == "task.seed: 4 and 5"
    assert first_difference(a, b, {"steps", "betas", "task"}) is None
    assert first_difference(a, to_jsonable(DialTask())) == "__class__: 'Train' and 'DialTask'"
    assert first_difference({"x": True}, {"x": 1}) == "x: True and 1"
    assert first_difference({"x": float("nan")}, {"x": float("nan")}) is None


@given(st.recursive(PLAIN, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_a_tree_does_not_differ_from_its_json(tree):
    assert first_difference(tree, json.loads(json.dumps(tree))) is None
