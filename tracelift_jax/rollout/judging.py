"""What the host makes of answers: numbers are compared, programs are run in a sandbox and tested."""

import contextlib
import dataclasses
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from tracelift_jax.errors import UserError
from tracelift_jax.tasks.oracle import Tests
from tracelift_jax.tasks.outcome import Judged, Outcome, judge, no_program
from tracelift_jax.tasks.problem import Problem
from tracelift_jax.tasks.programs import program_of
from tracelift_jax.tasks.sandbox import Pool, Program, Ran, SandboxConfig, open_pool
from tracelift_jax.tasks.verdict import FAILED
from tracelift_jax.tasks.verify import verify


@dataclasses.dataclass(frozen=True)
class Finding:
    """What became of one answer.

    Attributes:
        verdict: OK, WRONG or FAILED. tested: what a program's tests said; None for other answers.
    """

    verdict: int
    tested: Judged | None = None


def outcome_fields(findings: Sequence[Finding]) -> dict[str, Any]:
    """What tests said of programs, for a record: each one's outcome, and tests passed and tests; null for no answer."""
    tests = [finding.tested for finding in findings]
    return {
        "outcomes": [one and str(one.outcome) for one in tests],
        "tests": [one and [one.passed, one.total] for one in tests],
    }


Tallies = Mapping[str, tuple[float, float]]
"""{name: (sum, weight)}: what several processes found adds up; the value is sum / weight, or the sum where it is 0."""


def count(number: int) -> tuple[float, float]:
    """A number of things, in a `Tallies`."""
    return float(number), 0.0


def share(part: int, of: int) -> tuple[float, float]:
    """A share of things, in a `Tallies`; 0 of nothing is 0."""
    return float(part), float(max(of, 1))


class Judge(Protocol):
    """Judges answers by their problems."""

    def __call__(self, said: Sequence[tuple[Problem, str | None]]) -> tuple[list[Finding], Tallies]:
        """A finding for each answer, None being one that did not come; and `judging/<name>`, what that took.

        Raises:
            UserError: too many could not be judged.
        """
        ...


def judge_answers(said: Sequence[tuple[Problem, str | None]]) -> tuple[list[Finding], Tallies]:
    """Compares answers with the reference's, exactly; a `Judge`."""
    return [
        Finding(FAILED if text is None else verify(text, problem.answer, problem.answer_kind)) for problem, text in said
    ], {}


class ProgramJudge:
    """Runs programs in a sandbox; a `Judge`, and a context that ends what runs.

    A program that several answers agree on, to the letter, is run once, whatever problems they are of; each answer is
    judged by its own problem's tests.
    """

    def __init__(self, config: SandboxConfig):
        """Makes sure that programs can be run here.

        Raises:
            UserError: they cannot; the message says what to do.
        """
        self._config, self._pool = config, open_pool(config)

    def __enter__(self) -> "ProgramJudge":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.close()

    @property
    def pool(self) -> Pool:
        """Where they run."""
        return self._pool

    def run(self, program: Program) -> tuple[Ran, ...]:
        """Runs one program; see `Sandbox.run`."""
        return self._pool.submit([program], self._config.limits)[0].result()

    def __call__(self, said: Sequence[tuple[Problem, str | None]]) -> tuple[list[Finding], Tallies]:
        """See `Judge`.

        Raises:
            UserError: the sandbox failed for too many of them.
        """
        began = time.perf_counter()
        programs = [None if text is None else program_of(text, _tests(problem)) for problem, text in said]
        distinct = list(dict.fromkeys(program for program in programs if program is not None))
        running = self._pool.submit(distinct, self._config.limits)
        ran = {program: future.result() for program, future in zip(distinct, running, strict=True)}
        failures = [error for runs in ran.values() for error in [_outage(runs)] if error is not None]
        self._check(failures, len(distinct))
        findings = []
        for (problem, text), program in zip(said, programs, strict=True):
            if text is None:
                findings.append(Finding(FAILED))
                continue
            tests = _tests(problem)
            judged = no_program(tests) if program is None else judge(ran[program], tests)
            findings.append(Finding(judged.outcome.verdict, judged))
        return findings, self._metrics(findings, len(distinct), len(failures), time.perf_counter() - began)

    def _check(self, failures: list[str], programs: int) -> None:
        most = self._config.most_failed
        if len(failures) > most * programs:
            said, _ = Counter(failures).most_common(1)[0]
            raise UserError(
                f"sandbox: {said}; {len(failures)} of {programs} programs of the batch could not be run, and "
                f"SandboxConfig.most_failed is {most:g}; the same command goes on once it works"
            )

    @staticmethod
    def _metrics(findings: Sequence[Finding], programs: int, failed: int, seconds: float) -> Tallies:
        tested = [finding.tested for finding in findings if finding.tested is not None]
        counts = Counter(one.outcome for one in tested)
        shares = {f"judging/{outcome}": share(counts[outcome], len(tested)) for outcome in Outcome}
        return shares | {
            "judging/programs": count(programs),
            "judging/failed_programs": share(failed, programs),
            "judging/seconds": (seconds, 1.0),
        }


def _tests(problem: Problem) -> Tests:
    assert problem.oracle is not None, problem.problem_id
    return problem.oracle


def _outage(runs: Sequence[Ran]) -> str | None:
    """What the sandbox complained of, where it failed."""
    return next((one.error for one in runs if one.status == "infrastructure"), None)


class JudgeByKind:
    """Programs to those who run them, all other answers to `judge_answers`; a `Judge`."""

    def __init__(self, programs: Judge | None):
        """`programs`: None where no problem asks for one."""
        self._programs = programs

    def __call__(self, said: Sequence[tuple[Problem, str | None]]) -> tuple[list[Finding], Tallies]:
        """See `Judge`."""
        tried = [number for number, (problem, _) in enumerate(said) if problem.answer_kind == "program"]
        compared = [number for number, (problem, _) in enumerate(said) if problem.answer_kind != "program"]
        found, metrics = judge_answers([said[number] for number in compared])
        placed = dict(zip(compared, found, strict=True))
        if tried:
            assert self._programs is not None, "programs are judged in a sandbox"
            found, metrics = self._programs([said[number] for number in tried])
            placed |= zip(tried, found, strict=True)
        return [placed[number] for number in range(len(said))], metrics


@contextlib.contextmanager
def open_judge(sandbox: SandboxConfig, problems: Iterable[Problem]) -> Iterator[Judge]:
    """Who can judge answers to all of these problems; a sandbox is opened where one of them asks for a program.

    Raises:
        UserError: programs cannot be run here; the message says what to do.
    """
    with contextlib.ExitStack() as opened:
        asked = any(problem.answer_kind == "program" for problem in problems)
        yield JudgeByKind(opened.enter_context(ProgramJudge(sandbox)) if asked else None)
