"""Programs once more: what their tests say of the texts that a run recorded."""

from collections.abc import Iterable, Sequence
from typing import Any

from tracelift_jax.errors import UserError
from tracelift_jax.replay.read import Placed
from tracelift_jax.rollout.judging import Finding, ProgramJudge, outcome_fields
from tracelift_jax.rollout.reward_config import CodeRewardConfig
from tracelift_jax.tasks.problem import Problem
from tracelift_jax.tasks.verdict import FAILED, OK
from tracelift_jax.train.roles import Roles

FIELDS = {"outcomes": "run again", "tests": "run again", "without_counts": "run again where drawn in the step"}


class Rerunning:
    """Runs the programs of a run's records in its sandbox, by the tests of its task."""

    def __init__(self, roles: Roles, judge: ProgramJudge):
        """Reads the problems.

        Raises:
            UserError: they cannot be read, or their answers are no programs.
        """
        self._judge = judge
        self._problems = {problem.problem_id: problem for problem in roles.task.problems("train")}

    def __call__(self, groups: Sequence[Sequence[Placed]]) -> list[list[dict[str, Any]]]:
        """[B][G] what `FIELDS` should hold.

        Raises:
            UserError: a problem is not among the task's, or reads otherwise; or the sandbox failed for too many.
        """
        said: list[tuple[Problem, str | None]] = []
        for group in groups:
            problem = self._problem(*group[0])
            for _, record in group:
                said += [(problem, text) for text in (*record.answers, *record.without_answers)]
        findings = iter(self._judge(said)[0])
        return [
            [_expected(record.answers, record.without_answers, findings) for _, record in group] for group in groups
        ]

    def _problem(self, where: str, record: Any) -> Problem:
        problem = self._problems.get(record.problem_id)
        if problem is None or problem.text != record.problem:
            raise UserError(f"{where}: {record.problem_id} is no problem of the run's task, or reads otherwise there")
        return problem


def _expected(answers: Sequence[Any], alone: Sequence[Any], findings: Iterable[Finding]) -> dict[str, Any]:
    found = iter(findings)
    fields: dict[str, Any] = outcome_fields([next(found) for _ in answers])
    verdicts = [next(found).verdict for _ in alone]
    if verdicts:
        fields["without_counts"] = [verdicts.count(OK), len(verdicts) - verdicts.count(FAILED)]
    return fields


def open_sandbox(roles: Roles) -> ProgramJudge:
    """The sandbox of a run.

    Raises:
        UserError: its answers are no programs, or none can be run here.
    """
    if not isinstance(roles.reward, CodeRewardConfig):
        raise UserError("--rerun: answers of this run are no programs")
    return ProgramJudge(roles.sandbox)
