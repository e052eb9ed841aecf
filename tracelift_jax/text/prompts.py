"""Each role's prompt as token pieces, the problem always first.

Every role reads `before + problem + after` as one segment per problem, shared by all that hangs below it. What follows
is made of fixed pieces and the planner's own tokens, which are never decoded and tokenized again:

    planner     problem  open  ........................ the planner writes the body and `close`
    executor    problem  open  body close  ask ........ the executor writes its answer
    (baseline)  problem  ask_directly ................. the executor writes its answer
    reward      problem  open  body close  ............ graded at the last token
"""

import dataclasses
from functools import cached_property

from tracelift_jax.checked import check_types, require
from tracelift_jax.tasks.problem import Problem
from tracelift_jax.text.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class Frame:
    """What stands around a problem: `before + problem + after`; "{task_type}" is filled in."""

    before: str = ""
    after: str = "\n"

    def text(self, problem: Problem) -> str:
        """The framed problem."""
        return self.before.replace("{task_type}", problem.task_type) + problem.text + self.after


@dataclasses.dataclass(frozen=True)
class Prompts:
    """The words of all roles.

    Attributes:
        planner, executor, reward_model: what stands around the problem for each role.
        open, close: the tags; the prompt ends with `open`, the planner's trace with `close`.
        ask: asks the executor for its answer behind the reasoning. ask_directly: the same without reasoning.
        stop: strings that end an answer; the end token always does.
    """

    planner: Frame = Frame()
    executor: Frame = Frame()
    reward_model: Frame = Frame()
    open: str = "<reasoning>"
    close: str = "</reasoning>"
    ask: str = "\nAnswer:"
    ask_directly: str = "Answer:"
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_types(self)
        require(bool(self.open and self.close), "Prompts.open and Prompts.close must not be empty")
        require(all(self.stop), "Prompts.stop must not hold an empty string")
        require(bool(self.ask and self.ask_directly), "Prompts.ask and Prompts.ask_directly must not be empty")


@dataclasses.dataclass(frozen=True)
class Pieces:
    """The fixed pieces of `Prompts` as token ids."""

    prompts: Prompts
    tokenizer: Tokenizer

    @cached_property
    def open(self) -> tuple[int, ...]:
        """The opening tag."""
        return tuple(self.tokenizer.encode(self.prompts.open))

    @cached_property
    def close(self) -> tuple[int, ...]:
        """The closing tag, for traces that lack one."""
        return tuple(self.tokenizer.encode(self.prompts.close))

    @cached_property
    def ask(self) -> tuple[int, ...]:
        """The question behind a reasoning."""
        return tuple(self.tokenizer.encode(self.prompts.ask))

    @cached_property
    def ask_directly(self) -> tuple[int, ...]:
        """The question without reasoning."""
        return tuple(self.tokenizer.encode(self.prompts.ask_directly))

    def problem(self, frame: Frame, problem: Problem) -> list[int]:
        """A framed problem."""
        return self.tokenizer.encode(frame.text(problem))

    def trace(self, reasoning: str) -> list[int]:
        """What a planner would write: the body and the closing tag."""
        return self.tokenizer.encode(f" {reasoning} {self.prompts.close}")

    def answer(self, answer: str) -> list[int]:
        """What an executor would write: the canonical answer and the end token."""
        return [*self.tokenizer.encode(f" {answer}"), self.tokenizer.eos_id]
