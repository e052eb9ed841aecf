"""What the host makes of answers: numbers are compared, programs are run in a sandbox and tested."""

import dataclasses
import time
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

from tracelift_jax.errors import UserError
from tracelift_jax.tasks.outcome import Judged, Outcome, judge, no_program
from tracelift_jax.tasks.problem import Problem
from tracelift_jax.tasks.programs import program_of
from tracelift_jax.tasks.sandbox import Pool, SandboxConfig, open_pool
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


class Judge(Protocol):
    """Judges answers by their problems."""

    def __call__(self, said: Sequence[tuple[Problem, str | None]]) -> tuple[list[Finding], dict[str, float]]:
        """A finding for each answer, None being one that did not come; and `judging/<name>`, what that took.

        Raises:
            UserError: too many could not be judged.
        """
        ...


def judge_answers(said: Sequence[tuple[Problem, str | None]]) -> tuple[list[Finding], dict[str, float]]:
    """Compares answers with the reference's, exactly; a `Judge`."""
    return [
        Finding(FAILED if text is None else verify(text, problem.answer, problem.answer_kind)) for problem, text in said
    ], {}


class ProgramJudge:
    """Runs programs in a sandbox; a `Judge`.

    A program that several answers to one problem agree on, to the letter, is run once.
    """

    def __init__(self, config: SandboxConfig):
        """Makes sure that programs can be run here.

        Raises:
            UserError: they cannot; the message says what to do.
        """
        self._config, self._pool = config, open_pool(config)

    @property
    def pool(self) -> Pool:
        """Where they run."""
        return self._pool

    def __call__(self, said: Sequence[tuple[Problem, str | None]]) -> tuple[list[Finding], dict[str, float]]:
        """See `Judge`.

        Raises:
            UserError: the sandbox failed for too many of them.
        """
        began = time.perf_counter()
        keys, programs = [], {}
        for problem, text in said:
            assert problem.oracle is not None, problem.problem_id
            program = None if text is None else program_of(text, problem.oracle)
            key = None if program is None else (problem.problem_id, program)
            keys.append(key)
            if key is not None:
                programs.setdefault(key, (program, problem.oracle))
        running = self._pool.submit([program for program, _ in programs.values()], self._config.limits)
        tested: dict[object, Judged] = {}
        failures: list[str] = []
        for (key, (_, tests)), future in zip(programs.items(), running, strict=True):
            ran = future.result()
            tested[key] = judge(ran, tests)
            failures += [one.error for one in ran if one.status == "infrastructure"][:1]
        self._check(failures, len(programs))
        findings = []
        for (problem, text), key in zip(said, keys, strict=True):
            assert problem.oracle is not None
            if text is None:
                findings.append(Finding(FAILED))
                continue
            judged = tested[key] if key is not None else no_program(problem.oracle)
            findings.append(Finding(judged.outcome.verdict, judged))
        return findings, self._metrics(findings, len(programs), len(failures), time.perf_counter() - began)

    def _check(self, failures: list[str], programs: int) -> None:
        most = self._config.most_failed
        if len(failures) > most * programs:
            said, _ = Counter(failures).most_common(1)[0]
            raise UserError(
                f"sandbox: {said}; {len(failures)} of {programs} programs of the batch could not be run, and "
                f"SandboxConfig.most_failed is {most:g}; the same command goes on once it works"
            )

    @staticmethod
    def _metrics(findings: Sequence[Finding], programs: int, failed: int, seconds: float) -> dict[str, float]:
        tested = [finding.tested for finding in findings if finding.tested is not None]
        counts = Counter(one.outcome for one in tested)
        shares = {f"judging/{outcome}": counts[outcome] / max(len(tested), 1) for outcome in Outcome}
        return shares | {
            "judging/programs": float(programs),
            "judging/failed": failed / max(programs, 1),
            "judging/seconds": seconds,
        }
