"""Asking a server: at most once for each answer, with deadlines and retries, and an end when nothing helps.

`Chat.ask` gives an answer that was kept, or sends the request and keeps what comes. What can go wrong is not a verdict
on any trace: `GivenUp` says that this request found no answer, `Stopped` that nothing more is sent, because the user
asked to stop or because `Switch.error` says what makes going on useless.
"""

import asyncio
import contextlib
import dataclasses
import email.utils
import json
import os
import random
import time
from collections.abc import Mapping
from typing import Any

import openai
import pydantic
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from tracelift_jax.errors import UserError
from tracelift_jax.groups.answer_cache import AnswerCache, Reply, answer_key
from tracelift_jax.groups.chat_server import ChatServer

MAX_BACKOFF = 60.0
MAX_RETRY_AFTER = 600.0
"""Seconds: a request that a server does not want before is given up."""

_NO_KEY = "none"
_AGAIN = (408, 409, 425, 429)
_HOPELESS = {
    401: "see that ${key} holds its key",
    402: "it wants to be paid",
    403: "see that ${key} holds a key that may use the model",
    404: "see that the address ends before /chat/completions and that it serves the model",
    405: "see that the address ends before /chat/completions",
}


class GivenUp(Exception):
    """A request found no answer, through no fault of what it asks about."""


class Stopped(Exception):
    """The build is being left: nothing more is sent."""


class NotKept(Exception):
    """An answer is needed that the cache does not hold, while nothing may be sent."""


class _NoCompletion(Exception):
    """What came is no answer of a chat server."""


# What is read of an answer; servers differ in the rest.


class _Message(pydantic.BaseModel):
    content: str | None = None


class _Choice(pydantic.BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Usage(pydantic.BaseModel):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Completion(pydantic.BaseModel):
    choices: list[_Choice] = pydantic.Field(min_length=1)
    usage: _Usage | None = None


@dataclasses.dataclass
class Counts:
    """What asking a server took.

    Attributes:
        requests: sent, retries among them. retries: sent again after trouble. failures: requests given up.
        prompt_tokens: of answered requests. completion_tokens: likewise.
        cached: answers from before. cached_prompt_tokens, cached_completion_tokens: what they took then.
    """

    requests: int = 0
    retries: int = 0
    failures: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached: int = 0
    cached_prompt_tokens: int = 0
    cached_completion_tokens: int = 0


class Switch:
    """What all the servers of a build share: whether anything may be sent, and why not.

    Attributes:
        error: what makes going on useless. cache_only: nothing is sent; what is not kept raises NotKept.
    """

    def __init__(self) -> None:
        self.error: UserError | None = None
        self.cache_only = False
        self._stopping = asyncio.Event()

    @property
    def stopping(self) -> bool:
        """Whether nothing more is sent."""
        return self._stopping.is_set()

    def stop(self, error: UserError | None = None) -> None:
        """Sends nothing more; what is in flight is waited for."""
        self.error = self.error or error
        self._stopping.set()

    async def pause(self, seconds: float) -> None:
        """Waits, and raises Stopped as soon as nothing more is sent."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
            raise Stopped


class Chat:
    """One writer or grader on a server."""

    def __init__(self, server: ChatServer, cache: AnswerCache, switch: Switch):
        self.server, self.counts = server, Counts()
        self._cache, self._switch = cache, switch
        self._slots = asyncio.Semaphore(server.concurrency)
        self._flying: dict[str, asyncio.Task[Reply]] = {}
        self._counted: set[str] = set()
        self._answers = False  # whether the server has ever answered this kind of request
        key = os.environ.get(server.key_variable, "").strip() or _NO_KEY
        if not (key.isascii() and key.isprintable()):
            raise UserError(f"${server.key_variable}: holds what cannot be a key; keys are of ASCII letters and signs")
        # Deadlines and retries are ours: the library's deadline starts anew with every byte that comes.
        self._api = openai.AsyncOpenAI(base_url=server.base_url, api_key=key, max_retries=0, timeout=server.deadline)

    async def close(self) -> None:
        """Closes its connections."""
        await self._api.close()

    async def ask(self, prompt: str, schema: Mapping[str, object], attempt: int) -> Reply:
        """The answer to a prompt; the same question asked twice is sent once.

        Args:
            schema: of the JSON object asked for. attempt: from 1; each has an answer of its own.

        Raises:
            GivenUp: there is none. Stopped: nothing more is sent. NotKept: it would have to be sent, and may not.
        """
        request = self._request(prompt, schema)
        key = answer_key(request, attempt)
        if reply := self._cache.get(key):
            self._answers = True
            self._count_cached(key, reply)
            return reply
        if self._switch.cache_only:
            raise NotKept
        if key not in self._flying:
            self._flying[key] = asyncio.create_task(self._fetch(key, request))
            self._flying[key].add_done_callback(lambda _: self._flying.pop(key))
        return await self._flying[key]

    def _request(self, prompt: str, schema: Mapping[str, object]) -> dict[str, Any]:
        server = self.server
        request: dict[str, Any] = {"model": server.model, "messages": [{"role": "user", "content": prompt}]}
        if server.structure == "json_schema":
            asked = {"name": "answer", "strict": True, "schema": schema}
            request["response_format"] = {"type": "json_schema", "json_schema": asked}
        elif server.structure == "json_object":
            request["response_format"] = {"type": "json_object"}
        if server.temperature is not None:
            request["temperature"] = server.temperature
        if server.max_tokens is not None:
            request["max_tokens"] = server.max_tokens
        return {**request, **server.extra}

    async def _fetch(self, key: str, request: Mapping[str, Any]) -> Reply:
        sending = AsyncRetrying(
            sleep=self._switch.pause,
            stop=stop_after_attempt(self.server.retries + 1),
            wait=self._wait,
            retry=retry_if_exception(_may_pass),
            before_sleep=self._count_retry,
            reraise=True,
        )
        async with self._slots:
            try:
                reply = await sending(self._send, request)
            except _TROUBLE as error:
                raise self._give_up(error) from error
        self._cache.put(key, self.server.model, reply)
        self._answers = True
        self._counted.add(key)
        self.counts.prompt_tokens += reply.prompt_tokens
        self.counts.completion_tokens += reply.completion_tokens
        return reply

    async def _send(self, request: Mapping[str, Any]) -> Reply:
        if self._switch.stopping:
            raise Stopped
        self.counts.requests += 1
        async with asyncio.timeout(self.server.deadline):
            return _read(await self._api.post("/chat/completions", body=request, cast_to=object))

    def _count_cached(self, key: str, reply: Reply) -> None:
        if key not in self._counted:
            self._counted.add(key)
            self.counts.cached += 1
            self.counts.cached_prompt_tokens += reply.prompt_tokens
            self.counts.cached_completion_tokens += reply.completion_tokens

    def cost(self) -> dict[str, Any]:
        """What asking took: the server, the counts, the price of what was asked now and of all with what was cached."""
        server, counts = self.server, self.counts
        now = _price(server, counts.prompt_tokens, counts.completion_tokens)
        before = _price(server, counts.cached_prompt_tokens, counts.cached_completion_tokens)
        told = {"base_url": server.base_url, "model": server.model, **dataclasses.asdict(counts)}
        return {**told, "price": round(now, 6), "price_with_cached": round(now + before, 6)}

    def _count_retry(self, _: RetryCallState) -> None:
        self.counts.retries += 1

    def _wait(self, state: RetryCallState) -> float:
        wanted = _retry_after(state.outcome.exception() if state.outcome else None)
        if wanted is None:
            backoff = self.server.backoff
            return wait_exponential_jitter(multiplier=backoff, max=MAX_BACKOFF, jitter=backoff)(state)
        return wanted + random.random() * min(self.server.backoff, wanted)

    def _give_up(self, error: Exception) -> Exception:
        """Counts a request without an answer, and stops the build where going on is useless."""
        server, said = self.server, _said(error)
        where = f"{server.base_url} ({server.model})"
        status = error.status_code if isinstance(error, openai.APIStatusError) else 0
        if status in _HOPELESS or _out_of_quota(error):
            hint = _HOPELESS.get(status, "it wants to be paid").replace("{key}", server.key_variable)
            self._switch.stop(UserError(f"{where}: {said}; {hint}"))
            return Stopped()
        if 400 <= status < 500 and status not in _AGAIN and not self._answers:
            hint = "see ChatServer.model, structure, temperature, max_tokens and extra"
            self._switch.stop(UserError(f"{where}: refuses what it is asked: {said}; {hint}"))
            return Stopped()
        self.counts.failures += 1
        if self.counts.failures > server.max_failures:
            many = f"{self.counts.failures} requests without an answer, the last: {said}"
            self._switch.stop(UserError(f"{where}: {many}; the same command goes on from here once it works"))
        return GivenUp(f"{where}: {said}")


def _price(server: ChatServer, prompt_tokens: int, completion_tokens: int) -> float:
    return (prompt_tokens * server.prompt_price + completion_tokens * server.completion_price) / 1e6


_TROUBLE = (openai.APIError, TimeoutError, json.JSONDecodeError, _NoCompletion)


def _may_pass(error: BaseException) -> bool:
    """Whether the same request may be answered a little later."""
    if (_retry_after(error) or 0) > MAX_RETRY_AFTER or _out_of_quota(error):
        return False
    if isinstance(error, openai.APIStatusError):
        return error.status_code in _AGAIN or error.status_code >= 500
    return isinstance(error, _TROUBLE)


def _out_of_quota(error: BaseException | None) -> bool:
    return isinstance(error, openai.RateLimitError) and error.code == "insufficient_quota"


def _retry_after(error: BaseException | None) -> float | None:
    """The seconds that a server wants us to wait, from a number or a date."""
    if not isinstance(error, openai.APIStatusError):
        return None
    told = error.response.headers.get("retry-after", "")
    try:
        seconds = float(told)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(told).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return seconds if seconds > 0 else None


def _read(answer: object) -> Reply:
    try:
        told = _Completion.model_validate(answer)
    except pydantic.ValidationError:
        raise _NoCompletion(f"sends no chat completion but {json.dumps(answer)[:100]}") from None
    choice, usage = told.choices[0], told.usage or _Usage()
    text = (choice.message.content or "").encode(errors="replace").decode()  # without halves of surrogate pairs
    return Reply(text, choice.finish_reason or "", usage.prompt_tokens or 0, usage.completion_tokens or 0)


def _said(error: Exception) -> str:
    """What a server or the connection to it says, in one short line."""
    if isinstance(error, openai.APIStatusError):
        told = error.body.get("message") if isinstance(error.body, dict) else None
        text = f"{error.status_code} {told or error.response.text}"
    elif isinstance(error, openai.APITimeoutError | TimeoutError):
        text = "no answer within ChatServer.deadline"
    else:
        text = f"{type(error).__name__}: {error.__cause__ or error}"
    text = " ".join(text.encode(errors="replace").decode().split())
    return text if len(text) <= 300 else text[:297] + "..."
