"""An executor on a server: the same prompts as on the device, as text; its answers, as text.

`Served.ask` sends the questions of a batch at once, over connections that it keeps, from a thread of its own. An answer
that does not come, after all retries, is None: a failure of the infrastructure, which is no verdict.
"""

import asyncio
import contextlib
import dataclasses
import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import cached_property
from typing import Any, ClassVar, Literal

import pydantic

from tracelift_jax.checked import require
from tracelift_jax.errors import UserError
from tracelift_jax.remote.client import Client, GivenUp, Switch, Traffic, clean, read_shape
from tracelift_jax.remote.server import Server
from tracelift_jax.rollout.sample import Sampling
from tracelift_jax.tasks.problem import Problem
from tracelift_jax.text.prompts import Pieces, executor_messages


@dataclasses.dataclass(frozen=True)
class ExecutorServer(Server):
    """An executor behind `POST {base_url}/completions` or `/chat/completions`, as vLLM, SGLang or a provider have it.

    Attributes:
        base_url, model, key_variable, extra, concurrency, deadline, retries, backoff: see `Server`.
        endpoint: "completions" sends what an executor on the device would read, to the letter; "chat" sends the same
            words as a user's turn, around which the server puts a template of its own.
        together: asks for all answers to a prompt in one request, by "n", so that the prompt is read once; False sends
            a request for each, for servers that know no "n".
        seeded: sends a seed made from the run's; False for servers that refuse one.
        most_failed: the share of a batch's answers that may fail; beyond it the run stops.

    At temperature 0 all answers to a prompt are one: it is asked for once.
    """

    SETTINGS: ClassVar[str] = "model, endpoint, together, seeded and extra, and the executor's Sampling"

    concurrency: int = 64
    endpoint: Literal["completions", "chat"] = "completions"
    together: bool = True
    seeded: bool = True
    most_failed: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        share = self.most_failed
        require(0 <= share < 1, f"ExecutorServer.most_failed must lie in [0, 1), got {share}")

    @property
    def identity(self) -> str:
        """What tells one executor from another, since a server shows no weights: where it is, and what it is asked."""
        more = f" with {json.dumps(self.extra, sort_keys=True)}" if self.extra else ""
        return f"{self}, {self.endpoint}{more}"

    @property
    def path(self) -> str:
        """Of the endpoint, behind the base URL."""
        return "/completions" if self.endpoint == "completions" else "/chat/completions"


@dataclasses.dataclass(frozen=True)
class Question:
    """One prompt to an executor.

    Attributes:
        words: the fields of the request that say it. samples: n, answers to it. seed: of the answers, 31 bits.
    """

    words: dict[str, Any]
    samples: int
    seed: int


def question(
    server: ExecutorServer, pieces: Pieces, problem: Problem, reasoning: str | None, samples: int, seed: int
) -> Question:
    """Asks about a problem.

    Args:
        reasoning: with both tags; None asks directly.
    """
    if server.endpoint == "completions":
        return Question({"prompt": pieces.executor_text(problem, reasoning)}, samples, seed)
    return Question({"messages": executor_messages(pieces.prompts, problem, reasoning)}, samples, seed)


def draw_seed(base: int, number: int) -> int:
    """31 bits of its own for each question of a batch; an odd multiplier makes them differ."""
    return (base + number * 0x9E3779B1) % 2**31


# What is read of an answer; servers differ in the rest.


class _Message(pydantic.BaseModel):
    content: str | None = None


class _Choice(pydantic.BaseModel):
    text: str | None = None
    message: _Message | None = None
    index: int = 0

    @property
    def said(self) -> str:
        return clean((self.message.content if self.message else self.text) or "")


class _Usage(pydantic.BaseModel):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Completion(pydantic.BaseModel):
    choices: list[_Choice] = pydantic.Field(min_length=1)
    usage: _Usage | None = None


Texts = tuple[str | None, ...]
"""n answers to a question; None for one that did not come."""


class Served:
    """The executor on a server.

    Attributes:
        server: its settings. traffic: what asking it has taken so far.
    """

    def __init__(self, server: ExecutorServer, stop: tuple[str, ...]):
        """Sends nothing yet. `stop`: strings that end an answer."""
        self.server, self.traffic = server, Traffic()
        self._stop = list(stop)

    @cached_property
    def _loop(self) -> asyncio.AbstractEventLoop:
        """Where all asking happens, so that connections outlive a batch."""
        loop = asyncio.new_event_loop()
        threading.Thread(target=loop.run_forever, name=f"executor at {self.server.base_url}", daemon=True).start()
        return loop

    @cached_property
    def _switch(self) -> Switch:
        return Switch()

    @cached_property
    def _client(self) -> Client:
        return Client(self.server, self.server.path, self._switch, self.traffic)

    def close(self) -> None:
        """Closes the connections; they are opened again where something is asked."""
        if "_loop" in self.__dict__:
            with contextlib.suppress(Exception):  # a connection that breaks while it is closed is closed
                asyncio.run_coroutine_threadsafe(self._client.close(), self._loop).result(self.server.deadline)
            self._loop.call_soon_threadsafe(self._loop.stop)
            for name in ("_loop", "_client", "_switch"):
                self.__dict__.pop(name, None)

    def ask(self, questions: Sequence[Question], sampling: Sampling) -> list[Texts]:
        """The answers to all questions, in their order.

        Raises:
            UserError: the server refuses what it is asked, or too many answers did not come.
        """
        asking: Future[list[Texts]] = asyncio.run_coroutine_threadsafe(self._ask_all(questions, sampling), self._loop)
        try:
            return asking.result()
        finally:
            asking.cancel()  # where the user leaves, nothing more is sent

    async def _ask_all(self, questions: Sequence[Question], sampling: Sampling) -> list[Texts]:
        requests = [self._requests(one, sampling) for one in questions]
        batch = _Batch(self.server, sum(samples for some in requests for _, samples in some))
        try:
            async with asyncio.TaskGroup() as asking:
                tasks = [[asking.create_task(self._post(*one, batch)) for one in some] for some in requests]
        except ExceptionGroup as errors:
            # The first trouble that ends the batch ends it at once: nobody would look at the other answers.
            raise self._switch.error or errors.exceptions[0] from None
        told = [tuple(text for task in some for text in task.result()) for some in tasks]
        return [texts * (one.samples // len(texts)) for texts, one in zip(told, questions, strict=True)]

    def _requests(self, one: Question, sampling: Sampling) -> list[tuple[dict[str, Any], int]]:
        """What is sent for a question, and how many answers each request asks for; in all n, or 1 if all are alike."""
        if not sampling.temperature:  # and several are refused: vLLM allows no "n" beside temperature 0
            return [(self._request(one, sampling, 1, one.seed), 1)]
        if self.server.together:
            return [(self._request(one, sampling, one.samples, one.seed), one.samples)]
        seeds = ((one.seed + number) % 2**31 for number in range(one.samples))
        return [(self._request(one, sampling, 1, seed), 1) for seed in seeds]

    def _request(self, one: Question, sampling: Sampling, samples: int, seed: int) -> dict[str, Any]:
        return (
            {
                "model": self.server.model,
                **one.words,
                "max_tokens": sampling.max_tokens,
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
            }
            | ({"n": samples} if samples > 1 else {})
            | ({"stop": self._stop} if self._stop else {})
            | ({"seed": seed} if self.server.seeded else {})
        )

    async def _post(self, request: dict[str, Any], samples: int, batch: "_Batch") -> Texts:
        try:
            completion = await self._client.post(request, self._reader(samples))
        except GivenUp as error:
            batch.failed(samples, str(error), self._client.answers)
            return (None,) * samples
        usage = completion.usage or _Usage()
        self.traffic.prompt_tokens += usage.prompt_tokens or 0
        self.traffic.completion_tokens += usage.completion_tokens or 0
        return tuple(choice.said for choice in sorted(completion.choices, key=lambda choice: choice.index))

    def _reader(self, samples: int) -> Callable[[object], _Completion]:
        def read(answer: object) -> _Completion:
            completion = read_shape(answer, _Completion, "completion")
            if len(completion.choices) != samples:
                came = f"{self.server}: gives {len(completion.choices)} answers where {samples} are asked for"
                hint = "set ExecutorServer.together = False" if samples > 1 else "see ExecutorServer.extra"
                raise UserError(f"{came}; {hint}")
            return completion

        return read


class _Batch:
    """Counts the failures of a batch of `asked` answers."""

    def __init__(self, server: ExecutorServer, asked: int):
        self._server, self._asked, self._failed = server, asked, 0

    def failed(self, samples: int, said: str, answers: bool) -> None:
        """One more request without an answer.

        Args:
            samples: that it asked for. said: why there are none. answers: whether the server has ever answered.

        Raises:
            UserError: with this there are too many.
        """
        self._failed += samples
        if self._failed > self._server.most_failed * self._asked:
            count = f"with this {self._failed} of {self._asked} answers of the batch failed"
            most = f"ExecutorServer.most_failed is {self._server.most_failed:g}"
            hint = "" if answers else "; see that ExecutorServer.base_url is right and that the server is up"
            raise UserError(f"{said}; {count}, and {most}{hint}; the same command goes on once it works")
