"""Whether an answer is right, decided exactly on the host."""

from tracelift_jax.tasks.exact import read_final, same_answer
from tracelift_jax.tasks.latex import same_formula
from tracelift_jax.tasks.problem import AnswerKind
from tracelift_jax.tasks.verdict import OK, WRONG


def verify(text: str, reference: str, kind: AnswerKind = "number") -> int:
    """Judges the final answer of a text.

    Args:
        text: what a model wrote, of any length; it is never evaluated.
        reference: the right answer, alone or with its solution.
        kind: "number" compares exact fractions, or words where the reference is no number (see `tasks.exact`);
            "latex" asks math-verify, in a process of its own (see `tasks.latex`).

    Returns:
        OK or WRONG; of "latex" also FAILED, where time or memory ran out.

    Raises:
        UserError: math-verify is needed, and not installed.
    """
    if kind == "program":
        raise ValueError("programs are judged by their tests")
    if kind == "latex":
        return same_formula(text, reference)
    return OK if same_answer(read_final(text), read_final(reference, sole=True)) else WRONG
