"""What became of a program: one outcome for each test, and one for them all.

A test with expected output passes when the program exits 0 and its output equals the expected one token by token, split
at white space. Expected output stays here: it never enters a sandbox.
"""

import dataclasses
import enum
from collections.abc import Sequence

from tracelift_jax.tasks.oracle import Tests
from tracelift_jax.tasks.sandbox.program import Ran, Status
from tracelift_jax.tasks.verdict import FAILED, OK, WRONG


class Outcome(enum.StrEnum):
    """What became of a program, on one test or on all of them."""

    PASSED = "passed"
    FAILED_TEST = "failed_test"
    WRONG_OUTPUT = "wrong_output"
    RUNTIME_ERROR = "runtime_error"
    DOES_NOT_COMPILE = "does_not_compile"
    TIMEOUT = "timeout"
    MEMORY = "memory"
    OUTPUT_LIMIT = "output_limit"
    NO_PROGRAM = "no_program"
    INFRASTRUCTURE = "infrastructure"

    @property
    def code(self) -> int:
        """Its place among the outcomes, by which arrays name it."""
        return _CODES[self]

    @property
    def verdict(self) -> int:
        """OK, WRONG, or FAILED: an outage says nothing of the program."""
        if self is Outcome.INFRASTRUCTURE:
            return FAILED
        return OK if self is Outcome.PASSED else WRONG


_CODES = {outcome: code for code, outcome in enumerate(Outcome)}

_BY_STATUS: dict[Status, Outcome] = {
    "ok": Outcome.PASSED,
    "failed": Outcome.FAILED_TEST,
    "raised": Outcome.RUNTIME_ERROR,
    "uncompilable": Outcome.DOES_NOT_COMPILE,
    "timeout": Outcome.TIMEOUT,
    "memory": Outcome.MEMORY,
    "output": Outcome.OUTPUT_LIMIT,
    "infrastructure": Outcome.INFRASTRUCTURE,
}


def outcome_of(ran: Ran, expected: str | None = None) -> Outcome:
    """The outcome of one run.

    Args:
        ran: how it ended.
        expected: what it should have printed; None for a check, which judges by itself.
    """
    outcome = _BY_STATUS[ran.status]
    if outcome is Outcome.PASSED and expected is not None and ran.stdout.split() != expected.split():
        return Outcome.WRONG_OUTPUT
    return outcome


@dataclasses.dataclass(frozen=True)
class Judged:
    """The outcomes of one program.

    Attributes:
        outcomes: of its tests, in their order.
    """

    outcomes: tuple[Outcome, ...]

    @property
    def passed(self) -> int:
        """How many tests it passed."""
        return self.outcomes.count(Outcome.PASSED)

    @property
    def total(self) -> int:
        """How many tests there were."""
        return len(self.outcomes)

    @property
    def outcome(self) -> Outcome:
        """That of the first test it did not pass; an outage in any of them leaves the whole unknown."""
        if Outcome.INFRASTRUCTURE in self.outcomes:
            return Outcome.INFRASTRUCTURE
        return next((outcome for outcome in self.outcomes if outcome is not Outcome.PASSED), Outcome.PASSED)


def judge(ran: Sequence[Ran], tests: Tests) -> Judged:
    """Judges the runs of a program, one for each test in the order of `tests`.

    Raises:
        ValueError: there are fewer or more runs than tests.
    """
    expected = (*tests.outputs, *(None for _ in tests.checks))
    return Judged(tuple(outcome_of(one, output) for one, output in zip(ran, expected, strict=True)))


def no_program(tests: Tests) -> Judged:
    """What is said of an answer without a program in it."""
    return Judged((Outcome.NO_PROGRAM,) * len(tests))
