"""Who judges what: programs are run once and tested by their own problem's tests, other answers are compared."""

import threading
from collections.abc import Sequence

import pytest

from tracelift_jax.config import Limits, SandboxConfig
from tracelift_jax.errors import UserError
from tracelift_jax.rollout.judging import Finding, ProgramJudge, judge_answers, open_judge, outcome_fields
from tracelift_jax.tasks.oracle import Tests
from tracelift_jax.tasks.outcome import Judged, Outcome
from tracelift_jax.tasks.problem import Problem
from tracelift_jax.tasks.sandbox import remote
from tracelift_jax.tasks.verdict import FAILED, OK, WRONG

PLAIN = SandboxConfig(danger_run_unprotected=True, workers=2, limits=Limits(seconds=20.0))
"""For programs that this file wrote."""


def program(name: str, *tests: tuple[str, str]) -> Problem:
    inputs, outputs = zip(*tests, strict=True)
    return Problem(name, "?", "", answer_kind="program", task_name="code", oracle=Tests(tuple(inputs), tuple(outputs)))


ONE, TWO = program("one", ("", "1")), program("two", ("", "2"))
BOTH = program("both", ("", "1"), ("5", "1"))
NUMBER = Problem("number", "?", "18")
SUM = "print(1)\n"


def verdicts(findings: Sequence[Finding]) -> list[int]:
    return [finding.verdict for finding in findings]


def test_a_program_is_run_once_and_judged_by_each_problems_tests():
    fenced = f"It is\n```python\n{SUM}```\nas asked."
    said = [(ONE, SUM), (TWO, SUM), (ONE, fenced), (BOTH, SUM), (TWO, "print(2)"), (TWO, "No idea."), (ONE, None)]
    with ProgramJudge(PLAIN) as judge:
        findings, metrics = judge(said)
    assert verdicts(findings) == [OK, WRONG, OK, OK, OK, WRONG, FAILED]
    tested = [finding.tested for finding in findings]
    assert tested[:2] == [Judged((Outcome.PASSED,)), Judged((Outcome.WRONG_OUTPUT,))]
    assert tested[3] == Judged((Outcome.PASSED,) * 2) and tested[5] == Judged((Outcome.NO_PROGRAM,))
    assert tested[6] is None
    # `SUM` for ONE and TWO, which ask the same of it; `SUM` for BOTH; and what is right for TWO.
    assert metrics["judging/programs"] == (3, 0)
    shares = {name: metrics[f"judging/{name}"] for name in ("passed", "wrong_output", "no_program")}
    assert shares == {"passed": (4, 6), "wrong_output": (1, 6), "no_program": (1, 6)}
    assert outcome_fields(findings) == {
        "outcomes": ["passed", "wrong_output", "passed", "passed", "passed", "no_program", None],
        "tests": [[1, 1], [0, 1], [1, 1], [2, 2], [1, 1], [0, 1], None],
    }


def test_every_answer_goes_to_who_can_judge_it():
    said = [(NUMBER, "So #### 18"), (ONE, SUM), (NUMBER, "17"), (TWO, SUM), (NUMBER, None), (TWO, "print(2)")]
    with open_judge(PLAIN, [NUMBER, ONE, TWO]) as judge:
        findings, metrics = judge(said)
        assert verdicts(findings) == [OK, OK, WRONG, WRONG, FAILED, OK]
        assert [finding.tested is None for finding in findings] == [True, False] * 3
        assert metrics["judging/programs"] == (2, 0)
        assert judge([]) == ([], {})
        numbers = [pair for pair in said if pair[0] is NUMBER]
        assert judge(numbers) == judge_answers(numbers)


def test_a_sandbox_is_only_opened_where_programs_are_asked_for(monkeypatch):
    monkeypatch.setattr(remote, "BACKOFF_SECONDS", 0.001)
    nowhere = SandboxConfig(backend="remote", url="http://127.0.0.1:9", workers=1)
    with open_judge(nowhere, [NUMBER]) as judge:
        assert verdicts(judge([(NUMBER, "18")])[0]) == [OK]
    with pytest.raises(UserError, match=r"no sandbox: http://127\.0\.0\.1:9"), open_judge(nowhere, [NUMBER, ONE]):
        pytest.fail("there is no sandbox")


def sandboxes() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("sandbox-")]


@pytest.mark.parametrize("left_by", [None, KeyboardInterrupt])
def test_what_was_opened_is_closed_however_it_is_left(left_by):
    before = sandboxes()
    try:
        with open_judge(PLAIN, [ONE]) as judge:
            judge([(ONE, SUM)])
            assert len(sandboxes()) == len(before) + 2
            if left_by:
                raise left_by
    except KeyboardInterrupt:
        assert left_by
    assert sandboxes() == before
