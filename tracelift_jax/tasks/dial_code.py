"""The dial world with programs: the executor writes a Python program that prints where the dial ends.

    problem    The dial shows 7. Ann turns it up 5. Bob has 4 hats. Cal doubles it. What does it show now?
    reasoning  7 + 5 = 2 ; 2 * 2 = 4
    program    print((2 * 2) % 10)

The program does the last step by itself: behind true reasoning it can be read off, and without reasoning the steps
before it have to be done in one's head, which a small model cannot. It reads nothing, and has one test. The reasoning
is the dial world's own, and graded by its reward model, so `task_name` stays "math".
"""

import dataclasses
import re
from collections.abc import Sequence

from tracelift_jax.tasks.derived import Derived
from tracelift_jax.tasks.dial import DialProblem, DialTask, check_trace, true_steps
from tracelift_jax.tasks.oracle import Tests
from tracelift_jax.tasks.problem import Problem, Task

_STEP = re.compile(r"(\d) ([-+*]) (\d) =")


def program_for(reasoning: str) -> str:
    """The program that does the last step of a reasoning trace; "" where it has none."""
    steps = _STEP.findall(reasoning)
    return f"print(({' '.join(steps[-1])}) % 10)" if steps else ""


@dataclasses.dataclass(frozen=True)
class DialCode:
    """The dial world as a task for programs.

    Attributes:
        task: its problems. Where their reasoning is flawed (`ImperfectDial`), so is the program that follows it; the
            test is of the true answer.
    """

    task: Task = DialTask()

    def problems(self, split: str) -> Sequence[DialProblem]:
        """The problems of "train" or "test"."""
        return Derived(self.task.problems(split), _asking_for_a_program)

    def faithful(self, problem: Problem, reasoning: str) -> bool:
        """Whether `reasoning` is the problem's one true trace."""
        return check_trace(problem, reasoning).faithful


def _asking_for_a_program(dial: Problem) -> DialProblem:
    assert isinstance(dial, DialProblem)
    shown = true_steps(dial.start, dial.ops)[-1].result
    return dataclasses.replace(
        dial,
        problem_id=f"{dial.problem_id}/program",
        answer=program_for(dial.reasoning),
        answer_kind="program",
        oracle=Tests(inputs=("",), outputs=(f"{shown}\n",)),
    )
