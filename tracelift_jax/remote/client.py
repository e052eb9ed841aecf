"""Asking a server: with deadlines, retries and kept connections, and an end when nothing helps.

What can go wrong is no verdict on any trace. `GivenUp` says that this request found no answer, `Stopped` that nothing
more is sent, because somebody asked to stop or because `Switch.error` says what makes going on useless.
"""

import asyncio
import contextlib
import dataclasses
import email.utils
import json
import os
import random
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import httpx2
import openai
import pydantic
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from tracelift_jax.errors import UserError
from tracelift_jax.remote.server import Server

KEEP_ALIVE = 120.0
"""Seconds for which an idle connection is kept, where the server keeps it as well."""
MAX_BACKOFF = 60.0
MAX_RETRY_AFTER = 600.0
"""Seconds: a request that a server does not want before is given up."""

_NO_KEY = "none"
_AGAIN = (408, 409, 425, 429)
_HOPELESS = {
    401: "see that ${key} ({kind}.key_variable) holds its key",
    402: "it wants to be paid",
    403: "see that ${key} ({kind}.key_variable) holds a key that may use the model",
    404: "see that {kind}.base_url ends before {path} and that {kind}.model is served there",
    405: "see that {kind}.base_url ends before {path}",
}
Answer = TypeVar("Answer")
Shape = TypeVar("Shape", bound=pydantic.BaseModel)


class GivenUp(Exception):
    """A request found no answer, through no fault of what it asks about."""


class Stopped(Exception):
    """The work is being left: nothing more is sent."""


class _NoAnswer(Exception):
    """What came is no answer of such a server."""


@dataclasses.dataclass
class Traffic:
    """What asking a server took.

    Attributes:
        requests: sent, retries among them. retries: sent again after trouble. failures: requests given up.
        prompt_tokens: of answered requests. completion_tokens: likewise.
    """

    requests: int = 0
    retries: int = 0
    failures: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Switch:
    """What all who ask share: whether anything may be sent, and why not.

    Attributes:
        error: what makes going on useless.
    """

    def __init__(self) -> None:
        self.error: UserError | None = None
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


class Client:
    """One server, asked by many at a time.

    Attributes:
        answers: whether it has ever answered: a server that has does not refuse the kind of request.
    """

    def __init__(self, server: Server, path: str, switch: Switch, traffic: Traffic):
        """Sends to `{server.base_url}{path}` and counts in `traffic`.

        Raises:
            UserError: the key cannot be one.
        """
        self.server, self.answers = server, False
        self._path, self._switch, self._traffic = path, switch, traffic
        self._slots = asyncio.Semaphore(server.concurrency)
        key = os.environ.get(server.key_variable, "").strip() or _NO_KEY
        if not (key.isascii() and key.isprintable()):
            raise UserError(f"${server.key_variable}: holds what cannot be a key; keys are of ASCII letters and signs")
        # Deadlines and retries are ours: the library's deadline starts anew with every byte that comes.
        # A connection is kept for each request in flight, and long enough to outlive a training step.
        limits = httpx2.Limits(
            max_connections=server.concurrency,
            max_keepalive_connections=server.concurrency,
            keepalive_expiry=KEEP_ALIVE,
        )
        self._api = openai.AsyncOpenAI(
            base_url=server.base_url,
            api_key=key,
            max_retries=0,
            timeout=server.deadline,
            http_client=openai.DefaultAsyncHttpxClient(limits=limits),
        )

    async def close(self) -> None:
        """Closes its connections."""
        await self._api.close()

    async def post(self, request: Mapping[str, Any], read: Callable[[object], Answer]) -> Answer:
        """What `read` makes of the answer to a request, which is sent until one comes.

        Raises:
            GivenUp: none came. Stopped: nothing more is sent.
        """
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
                answer = await sending(self._send, request, read)
            except _TROUBLE as error:
                raise self._give_up(error) from error
        self.answers = True
        return answer

    async def _send(self, request: Mapping[str, Any], read: Callable[[object], Answer]) -> Answer:
        if self._switch.stopping:
            raise Stopped
        self._traffic.requests += 1
        async with asyncio.timeout(self.server.deadline):
            body = {name: value for name, value in {**request, **self.server.extra}.items() if value is not None}
            return read(await self._api.post(self._path, body=body, cast_to=object))

    def _count_retry(self, _: RetryCallState) -> None:
        self._traffic.retries += 1

    def _wait(self, state: RetryCallState) -> float:
        wanted = _retry_after(state.outcome.exception() if state.outcome else None)
        if wanted is None:
            backoff = self.server.backoff
            return wait_exponential_jitter(multiplier=backoff, max=MAX_BACKOFF, jitter=backoff)(state)
        return wanted + random.random() * min(self.server.backoff, wanted)

    def _give_up(self, error: Exception) -> Exception:
        """Counts a request without an answer, and ends all asking where going on is useless."""
        server, said = self.server, self._said(error)
        status = error.status_code if isinstance(error, openai.APIStatusError) else 0
        if status in _HOPELESS or _out_of_quota(error):
            hint = _HOPELESS.get(status, "it wants to be paid")
            told = {"{key}": server.key_variable, "{kind}": type(server).__name__, "{path}": self._path}
            for mark, words in told.items():
                hint = hint.replace(mark, words)
            self._switch.stop(UserError(f"{server}: {said}; {hint}"))
            return Stopped()
        if 400 <= status < 500 and status not in _AGAIN and not self.answers:
            hint = f"see {type(server).__name__}.{server.SETTINGS}"
            self._switch.stop(UserError(f"{server}: refuses what it is asked: {said}; {hint}"))
            return Stopped()
        self._traffic.failures += 1
        return GivenUp(f"{server}: {said}")

    def _said(self, error: Exception) -> str:
        """What a server or the connection to it says, in one short line."""
        if isinstance(error, openai.APIStatusError):
            told = error.body.get("message") if isinstance(error.body, dict) else None
            text = f"{error.status_code} {told or error.response.text}"
        elif isinstance(error, openai.APITimeoutError | TimeoutError):
            text = f"no answer within {type(self.server).__name__}.deadline"
        else:
            text = f"{type(error).__name__}: {error.__cause__ or error}"
        text = " ".join(text.encode(errors="replace").decode().split())
        return text if len(text) <= 300 else text[:297] + "..."


def read_shape(answer: object, shape: type[Shape], what: str) -> Shape:
    """An answer as `shape`; where it is none, the request is sent again.

    Args:
        what: it should be, in words.
    """
    try:
        return shape.model_validate(answer)
    except pydantic.ValidationError:
        raise _NoAnswer(f"sends no {what} but {json.dumps(answer)[:100]}") from None


def clean(text: str) -> str:
    """Text as it can be kept: without halves of surrogate pairs."""
    return text.encode(errors="replace").decode()


_TROUBLE = (openai.APIError, TimeoutError, json.JSONDecodeError, _NoAnswer)


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
