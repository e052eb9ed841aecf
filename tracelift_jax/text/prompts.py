"""Each role's prompt as token pieces, the problem always first.

Every role reads the problem, with what stands around it, as one segment per problem, shared by all that hangs below it.
What follows is made of fixed pieces and the planner's own tokens, which are never decoded and tokenized again:

    planner     problem  open  ........................ the planner writes the body and `close`
    executor    problem  open  body close  ask ........ the executor writes its answer
    (baseline)  problem  ask_directly ................. the executor writes its answer
    reward      problem  open  body close  ............ graded at the last token

A `Frame` is plain text for base models: `problem` is `begin before PROBLEM after`, where `begin` is the token that some
tokenizers want in front of everything. A `Chat` is one user turn in the tokenizer's chat template, for models that were
taught to chat. The template writes `head` in front of the turn's words and, behind them, `tail`: the end of the turn
and the beginning of the model's own. The same pieces then hold:

                problem                            ask, ask_directly
    planner     head before PROBLEM after tail
    executor    head before PROBLEM after          ask tail, ask_directly tail
    reward      head before PROBLEM after

so the executor reads the reasoning inside the user's turn. Where a problem has tests and the role's words say how to
show them, they stand directly behind `after`. Control tokens come from the template (and from what the experiment's
author writes around the problem) alone: in a problem, its tests or a reasoning their names are plain text.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Literal

from tracelift_jax.checked import check_types, require
from tracelift_jax.errors import UserError
from tracelift_jax.tasks.problem import Problem
from tracelift_jax.text.tokenizer import Tokenizer

Role = Literal["planner", "executor", "reward_model"]
ROLES: tuple[Role, ...] = ("planner", "executor", "reward_model")

PROBLEM, REASONING, TASK_TYPE, TASK_NAME = "(7e1problem5c2)", "(7e1reasoning5c2)", "(7e1type5c2)", "(7e1name5c2)"
TESTS = "(7e1tests5c2)"
"""What stands in a rendered chat template for the problem, the reasoning, the task type, the task name and the tests
with the words around them."""


def _fill(words: str, task_type: str, task_name: str) -> str:
    """`words` with "{task_type}" and "{task_name}" filled in."""
    values = {"{task_type}": task_type, "{task_name}": task_name}
    return re.sub("{task_type}|{task_name}", lambda found: values[found[0]], words)


def _check_tests(kind: str, words: str) -> None:
    require(not words or "{tests}" in words, f'{kind}.tests must hold "{{tests}}" where it is not empty, got {words!r}')


def _show_tests(words: str, tests: str) -> str:
    """The tests in `words`, or nothing where there are none."""
    return words.replace("{tests}", tests) if tests else ""


@dataclasses.dataclass(frozen=True)
class Frame:
    """What stands around a problem: `before + problem + after`, and `tests` behind it where the problem has tests.

    Attributes:
        before: in front of the problem; "{task_type}" and "{task_name}" are filled in.
        after: behind the problem.
        tests: behind `after` where the problem has tests; "{tests}" is filled in. "" shows none.
    """

    before: str = ""
    after: str = "\n"
    tests: str = ""

    def __post_init__(self) -> None:
        check_types(self)
        _check_tests("Frame", self.tests)

    def text(self, problem: Problem) -> str:
        """The framed problem."""
        before = _fill(self.before, problem.task_type, problem.task_name)
        return before + problem.text + self.after + _show_tests(self.tests, problem.tests)


@dataclasses.dataclass(frozen=True)
class Chat:
    """A user turn around a problem, in the tokenizer's chat template.

    Attributes:
        system: the system message; "" sends none, and the template may have one of its own.
        before, after: what stands around the problem; "{task_type}" and "{task_name}" in `before` are filled in.
        tests: plain text behind `after` where the problem has tests; "{tests}" is filled in. "" shows none.
        thinking: whether models that can think before they answer (Qwen3) are to.
    """

    system: str = ""
    before: str = ""
    after: str = ""
    tests: str = ""
    thinking: bool = False

    def __post_init__(self) -> None:
        check_types(self)
        _check_tests("Chat", self.tests)

    def turn(self, behind: str = "") -> str:
        """The user's words, with marks for what is filled in; `behind` follows the problem and its tests."""
        tests = TESTS if self.tests else ""
        return _fill(self.before, TASK_TYPE, TASK_NAME) + PROBLEM + self.after + tests + behind


def _words_of(chat: Chat, problem: Problem) -> dict[str, str]:
    """What stands in a turn's place of each mark."""
    return {
        PROBLEM: problem.text,
        TASK_TYPE: problem.task_type,
        TASK_NAME: problem.task_name,
        TESTS: _show_tests(chat.tests, problem.tests),
    }


def _replace_marks(text: str, words: Mapping[str, str]) -> str:
    return re.sub("|".join(map(re.escape, words)), lambda found: words[found[0]], text)


@dataclasses.dataclass(frozen=True)
class Prompts:
    """The words of all roles.

    Attributes:
        planner, executor, reward_model: what stands around the problem for each role.
        open, close: the tags; the prompt ends with `open`, the planner's trace with `close`.
        space: stands on both sides of a reasoning that is given as text, between it and the tags.
        ask: asks the executor for its answer behind the reasoning. ask_directly: the same without reasoning.
        stop: strings that end an answer; the end tokens always do.
    """

    planner: Frame | Chat = Frame()
    executor: Frame | Chat = Frame()
    reward_model: Frame | Chat = Frame()
    open: str = "<reasoning>"
    close: str = "</reasoning>"
    space: str = " "
    ask: str = "\nAnswer:"
    ask_directly: str = "Answer:"
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_types(self)
        require(bool(self.open and self.close), "Prompts.open and Prompts.close must not be empty")
        require(all(self.stop), "Prompts.stop must not hold an empty string")
        require(bool(self.ask and self.ask_directly), "Prompts.ask and Prompts.ask_directly must not be empty")

    @property
    def shared(self) -> bool:
        """Whether planner and executor read the problem in the same words, up to the same token."""
        return isinstance(self.planner, Frame) and self.planner == self.executor


def executor_messages(prompts: Prompts, problem: Problem, reasoning: str | None) -> list[dict[str, str]]:
    """What the executor reads as the messages of a chat, for a server that has a template of its own.

    Args:
        reasoning: with both tags; None asks directly.
    """
    chat = prompts.executor
    behind = (reasoning or "") + (prompts.ask_directly if reasoning is None else prompts.ask)
    if isinstance(chat, Frame):
        return [{"role": "user", "content": chat.text(problem) + behind}]
    words = {**_words_of(chat, problem), REASONING: behind}
    system = [{"role": "system", "content": chat.system}] if chat.system else []
    return [*system, {"role": "user", "content": _replace_marks(chat.turn(REASONING), words)}]


def _render(tokenizer: Tokenizer, role: Role, chat: Chat, turn: str) -> str:
    """`turn` in the tokenizer's chat template.

    Raises:
        UserError: the template shows something else than the turn's words, or shows them twice.
    """
    text = tokenizer.chat(chat.system, turn, chat.thinking)
    # Templates may strip the ends of a turn; in between, everything must be there as it was written, once.
    if turn.strip() not in text or any(text.count(mark) != turn.count(mark) for mark in (PROBLEM, TESTS, REASONING)):
        raise UserError(
            f"Prompts.{role}: the chat template of {tokenizer.where} does not show a user's words as they are, once; "
            "use a Frame"
        )
    return text


def _longest(encode: Callable[[str], list[int]], text: str, room: int) -> list[int] | None:
    """The longest beginning of `text`, short of all of it, that `encode` makes at most `room` tokens of.

    Returns:
        Those tokens, or None where not even "" fits.
    """
    fits, too_many, found = -1, len(text), None
    while too_many - fits > 1:
        letters = (fits + too_many) // 2
        ids = encode(text[:letters])
        if len(ids) <= room:
            fits, found = letters, ids
        else:
            too_many = letters
    return found


def _render_roles(tokenizer: Tokenizer, prompts: Prompts) -> dict[str, str]:
    """The template text of every piece that has one, by the piece's name; what is filled in is marked."""
    texts = {}
    if isinstance(prompts.planner, Chat):
        texts["planner"] = _render(tokenizer, "planner", prompts.planner, prompts.planner.turn())
    if isinstance(prompts.reward_model, Chat):
        turn = prompts.reward_model.turn(REASONING)
        texts["reward_model"] = _render(tokenizer, "reward_model", prompts.reward_model, turn).split(REASONING)[0]
    if isinstance(prompts.executor, Chat):
        for ask in ("ask", "ask_directly"):
            turn = prompts.executor.turn(REASONING + getattr(prompts, ask))
            # Both begin alike, since the marks stand at the same place.
            texts["executor"], texts[ask] = _render(tokenizer, "executor", prompts.executor, turn).split(REASONING)
    return texts


@dataclasses.dataclass(frozen=True)
class Pieces:
    """The fixed pieces of `Prompts` as token ids.

    Raises:
        UserError: a tag or stop string is a control token; or a role has a `Chat`, and the tokenizer no chat template.
    """

    prompts: Prompts
    tokenizer: Tokenizer
    templates: dict[str, str] = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for words in (self.prompts.open, self.prompts.close, *self.prompts.stop):
            if words in self.tokenizer.controls:
                raise UserError(
                    f"Prompts: {words!r} is a control token of {self.tokenizer.where}, and as text is never found; use "
                    "other tags, and for what ends an answer the eos_token_id of the model's generation_config.json"
                )
        object.__setattr__(self, "templates", _render_roles(self.tokenizer, self.prompts))

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
        """The question behind a reasoning, up to where the executor writes."""
        return self._question("ask", self.prompts.ask)

    @cached_property
    def ask_directly(self) -> tuple[int, ...]:
        """The question without reasoning, up to where the executor writes."""
        return self._question("ask_directly", self.prompts.ask_directly)

    def _question(self, piece: str, text: str) -> tuple[int, ...]:
        if piece in self.templates:
            return tuple(self.tokenizer.encode_template(self.templates[piece]))
        return tuple(self.tokenizer.encode(text))

    def problem(self, role: Role, problem: Problem) -> list[int]:
        """A problem as `role` reads it."""
        frame = getattr(self.prompts, role)
        if isinstance(frame, Frame):
            return [*self.tokenizer.begin, *self.tokenizer.encode(frame.text(problem))]
        return self.tokenizer.encode_template(self.templates[role], _words_of(frame, problem))

    def executor_text(self, problem: Problem, reasoning: str | None) -> str:
        """What the executor on the device reads, as text: its tokens' words, to the letter, for a server.

        Control tokens of a chat template are written by name. What some tokenizers want in front of everything is left
        out, whoever put it there: servers add it.

        Args:
            reasoning: with both tags; None asks directly.
        """
        spell, begin = self.tokenizer.spell, self.tokenizer.begin
        tokens = self.problem("executor", problem)
        shown = tokens[len(begin) :] if tuple(tokens[: len(begin)]) == begin else tokens
        return spell(shown) + (reasoning or "") + spell(self.ask_directly if reasoning is None else self.ask)

    def cut_problem(self, role: Role, problem: Problem, room: int) -> list[int] | None:
        """A problem as `role` reads it in at most `room` tokens: its text cut at the end, what stands around it whole.

        Tests go first, for a problem can be understood without them: they are cut at their end, left out with the words
        around them where none of them fits, and only then the problem's text is cut.

        Returns:
            None where not even the words around the problem fit.
        """
        whole = self.problem(role, problem)
        if len(whole) <= room:
            return whole
        bare = dataclasses.replace(problem, tests="")
        if problem.tests and len(self.problem(role, bare)) <= room:
            return _longest(
                lambda tests: self.problem(role, dataclasses.replace(problem, tests=tests)), problem.tests, room
            )
        return _longest(lambda text: self.problem(role, dataclasses.replace(bare, text=text)), problem.text, room)

    def trace(self, reasoning: str) -> list[int]:
        """What a planner would write: the body and the closing tag."""
        space = self.prompts.space
        return self.tokenizer.encode(f"{space}{reasoning}{space}{self.prompts.close}")

    def tagged(self, reasoning: str) -> list[int]:
        """A reasoning that is given as text, with both tags: one text, as a reward model was trained to read it."""
        prompts = self.prompts
        return self.tokenizer.encode(f"{prompts.open}{prompts.space}{reasoning}{prompts.space}{prompts.close}")

    def begun(self, reasoning: str) -> list[int]:
        """A trace that goes on behind `reasoning`, the opening tag included."""
        return [*self.open, *self.tokenizer.encode(f"{self.prompts.space}{reasoning}")]

    def answer(self, answer: str) -> list[int]:
        """What an executor would write: the canonical answer and the end token."""
        # In a chat the answer begins the executor's turn; in plain text it follows the question's last word.
        space = "" if isinstance(self.prompts.executor, Chat) else " "
        return [*self.tokenizer.encode(space + answer), self.tokenizer.eos_id]
