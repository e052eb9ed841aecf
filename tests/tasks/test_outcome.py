"""What became of programs: each way to end, and judging by tests; real programs in plain processes."""

import pytest

from tracelift_jax.tasks.oracle import Tests
from tracelift_jax.tasks.outcome import Judged, Outcome, judge, no_program, outcome_of
from tracelift_jax.tasks.programs import program_of
from tracelift_jax.tasks.sandbox import Limits, Ran, Unprotected
from tracelift_jax.tasks.verdict import FAILED, OK, WRONG


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        ("ok", "passed"),
        ("failed", "failed_test"),
        ("raised", "runtime_error"),
        ("uncompilable", "does_not_compile"),
        ("timeout", "timeout"),
        ("memory", "memory"),
        ("output", "output_limit"),
        ("infrastructure", "infrastructure"),
    ],
)
def test_how_a_run_ended_is_its_outcome(status, outcome):
    assert outcome_of(Ran(status)) == outcome
    if status != "ok":  # whatever it had printed by then
        assert outcome_of(Ran(status, stdout="5\n"), "5") == outcome


@pytest.mark.parametrize(
    ("printed", "expected", "right"),
    [
        ("5\n", "5", True),
        ("1 2\n3", "1\n2   3\n\n", True),
        ("", " \n", True),
        ("5", "5.0", False),
        ("5 5", "5", False),
        ("5", "5 5", False),
        ("55", "5 5", False),
        ("Yes", "YES", False),
        ("", "5", False),
    ],
)
def test_output_is_compared_token_by_token(printed, expected, right):
    assert outcome_of(Ran("ok", printed), expected) == ("passed" if right else "wrong_output")


PASSED, FAILS, WRONG_OUT, RAISED, OUTAGE = (
    Ran("ok"),
    Ran("failed"),
    Ran("ok", "no"),
    Ran("raised"),
    Ran("infrastructure"),
)
CHECKS = Tests(checks=("a", "b", "c"))


@pytest.mark.parametrize(
    ("ran", "passed", "outcome", "verdict"),
    [
        ((PASSED, PASSED, PASSED), 3, "passed", OK),
        ((PASSED, FAILS, RAISED), 1, "failed_test", WRONG),
        ((RAISED, FAILS, PASSED), 1, "runtime_error", WRONG),
        ((PASSED, FAILS, OUTAGE), 1, "infrastructure", FAILED),
        ((OUTAGE, OUTAGE, OUTAGE), 0, "infrastructure", FAILED),
    ],
)
def test_the_whole_is_what_the_first_failure_is(ran, passed, outcome, verdict):
    judged = judge(ran, CHECKS)
    assert (judged.passed, judged.total, judged.outcome, judged.outcome.verdict) == (passed, 3, outcome, verdict)


def test_inputs_come_first_each_with_its_output():
    tests = Tests(inputs=("", ""), outputs=("yes", "no"), checks=("a",))
    judged = judge((WRONG_OUT, WRONG_OUT, WRONG_OUT), tests)
    assert judged == Judged((Outcome.WRONG_OUTPUT, Outcome.PASSED, Outcome.PASSED))


@pytest.mark.parametrize("count", [0, 2, 4])
def test_runs_that_are_not_of_these_tests_are_refused(count):
    with pytest.raises(ValueError, match="zip"):
        judge((PASSED,) * count, CHECKS)


def test_no_program_fails_every_test():
    judged = no_program(CHECKS)
    assert (judged.passed, judged.total, judged.outcome, judged.outcome.verdict) == (0, 3, "no_program", WRONG)


def test_codes_are_places():
    assert [outcome.code for outcome in Outcome] == list(range(10))
    assert Outcome.PASSED.code == 0


SUMS = Tests(inputs=("1 2\n", "3 4\n"), outputs=("3\n", "7\n"))


@pytest.mark.parametrize(
    ("text", "outcomes"),
    [
        ("```python\nprint(sum(map(int, input().split())))\n```", ("passed", "passed")),
        ("print(3)", ("passed", "wrong_output")),
        ("a, b = map(int, input().split())\nprint(a + b)\nassert a == 1", ("passed", "runtime_error")),
        ("```python\nprint(3", ("does_not_compile", "does_not_compile")),
        ("import time\ntime.sleep(9)", ("timeout", "timeout")),
    ],
)
def test_real_programs(text, outcomes):
    program = program_of(text, SUMS)
    assert program is not None
    assert judge(Unprotected().run(program, Limits(seconds=0.5)), SUMS).outcomes == outcomes
