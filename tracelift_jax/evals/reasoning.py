r"""Reasoning as text: its steps, what an audit makes of it, and whether it gives the answer away.

Steps are lines; where there is only one line, what stands between " ; " or "; "; where there is none of these,
sentences. An audit keeps the steps' words and puts the same kind of separator between them.
"""

import random
import re
from collections.abc import Callable, Sequence

from tracelift_jax.tasks.problem import Problem
from tracelift_jax.tasks.programs import shows_program
from tracelift_jax.text.numbers import number_of
from tracelift_jax.train.solve import number_text

_SEPARATORS = ((r"\n", "\n"), (r" ; ", " ; "), (r";\s", "; "), (r"(?<=[.!?])\s", " "))
_MARK = re.compile(r"####|\\boxed(?=\s*\{)|answer is|final answer|answer\s*[:=]", re.IGNORECASE)
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*(?:/\d+)?")


def split_steps(reasoning: str) -> tuple[list[str], str]:
    """The steps of a reasoning, none of them blank, and what stands between them."""
    text = reasoning.strip()
    for pattern, between in _SEPARATORS:
        steps = [step.strip() for step in re.split(pattern, text) if step.strip()]
        if len(steps) > 1:
            return steps, between
    return [text] if text else [], " "


def shuffled(reasoning: str, rng: random.Random) -> str:
    """The same steps in another order, wherever another order reads differently."""
    steps, between = split_steps(reasoning)
    order = list(steps)
    while order == steps and len(set(steps)) > 1:
        rng.shuffle(order)
    return between.join(order)


def truncated(reasoning: str) -> str:
    """The first half of the steps, rounded down."""
    steps, between = split_steps(reasoning)
    return between.join(steps[: len(steps) // 2])


def final_value(reasoning: str) -> str:
    """What a reasoning comes to: the final number in it as the reader of answers finds it, or else its last step."""
    number = number_text(number_of(reasoning))
    if number is not None:
        return number
    steps, _ = split_steps(reasoning)
    return steps[-1] if steps else ""


def derangement(ids: Sequence[str], seed: int) -> list[int]:
    """For each of two or more problems another one, each problem once; depends on ids and seed alone."""
    order = list(range(len(ids)))
    random.Random("\0".join([str(seed), *ids])).shuffle(order)
    other = [0] * len(ids)
    for here, there in zip(order, [*order[1:], order[0]], strict=True):
        other[here] = there
    return other


def leaks(reasoning: str, problem: Problem, equal: Callable[[str], bool]) -> bool:
    r"""Whether a reasoning gives the final answer away, which a planner must not (METHOD).

    It does where it announces the answer: behind `####`, `\boxed`, "answer is", "final answer", "answer:" or
    "answer =" the right answer follows on the same line. Or where its last statement is the bare answer: it holds the
    reference's value and no other number, as in "So he has 18 apples." or "= 18". The result of a last step,
    "9 * 2 = 18", is no leak: a calculation that ends in the answer is what was asked for. Wrong answers leak nothing,
    and answers that are no numbers can only be announced.

    Where a program is asked for it does where it gives one (`shows_program`), or holds the reference's.

    Args:
        equal: whether a text, read as an answer, is right; nobody asks where a program is asked for.
    """
    if problem.answer_kind == "program":
        given = problem.answer.strip()
        entry_point = "" if problem.oracle is None else problem.oracle.entry_point
        return (bool(given) and given in reasoning) or shows_program(reasoning, entry_point)
    for mark in _MARK.finditer(reasoning):
        rest = reasoning[mark.end() :].partition("\n")[0]
        if rest.strip() and equal((mark[0] if mark[0].startswith("\\") else "#### ") + rest):
            return True
    if problem.answer_kind != "number":
        return False
    steps = [step for step in re.split(r"\n|;|(?<=[.!?])\s", reasoning) if step.strip()]
    return bool(steps) and len(_NUMBER.findall(steps[-1])) == 1 and equal(steps[-1])
