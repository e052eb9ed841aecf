"""Asking a writer or a grader: at most once for each answer.

`Chat.ask` gives an answer that was kept, or sends the request and keeps what comes.
"""

import asyncio
import dataclasses
from collections.abc import Mapping
from typing import Any

import pydantic

from tracelift_jax.errors import UserError
from tracelift_jax.groups.answer_cache import AnswerCache, Reply, answer_key
from tracelift_jax.groups.chat_server import ChatServer
from tracelift_jax.remote import client
from tracelift_jax.remote.client import Client, GivenUp, Traffic, clean, read_shape


class NotKept(Exception):
    """An answer is needed that the cache does not hold, while nothing may be sent."""


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
class Counts(Traffic):
    """What asking a server took, now and before.

    Attributes:
        requests, retries, failures, prompt_tokens, completion_tokens: see `Traffic`.
        cached: answers from before. cached_prompt_tokens, cached_completion_tokens: what they took then.
    """

    cached: int = 0
    cached_prompt_tokens: int = 0
    cached_completion_tokens: int = 0


class Switch(client.Switch):
    """What all the servers of a build share.

    Attributes:
        cache_only: nothing is sent; what is not kept raises NotKept.
    """

    def __init__(self) -> None:
        super().__init__()
        self.cache_only = False


class Chat:
    """One writer or grader on a server."""

    def __init__(self, server: ChatServer, cache: AnswerCache, switch: Switch):
        self.server, self.counts = server, Counts()
        self._cache, self._switch = cache, switch
        self._flying: dict[str, asyncio.Task[Reply]] = {}
        self._counted: set[str] = set()
        self._client = Client(server, "/chat/completions", switch, self.counts)

    async def close(self) -> None:
        """Closes its connections."""
        await self._client.close()

    async def ask(self, prompt: str, schema: Mapping[str, object], attempt: int) -> Reply:
        """The answer to a prompt; the same question asked twice is sent once.

        Args:
            schema: of the JSON object asked for. attempt: from 1; each has an answer of its own.

        Raises:
            GivenUp: there is none. Stopped: nothing more is sent. NotKept: it would have to be sent, and may not.
        """
        request = self._request(prompt, schema)
        key = answer_key({**request, **self.server.extra}, attempt)
        if reply := self._cache.get(key):
            self._client.answers = True
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
        return request

    async def _fetch(self, key: str, request: Mapping[str, Any]) -> Reply:
        try:
            reply = await self._client.post(request, _read)
        except GivenUp as error:
            if self.counts.failures > self.server.max_failures:
                many = f"{self.counts.failures} requests without an answer, the last: "
                told = str(error).replace(f"{self.server}: ", f"{self.server}: {many}", 1)
                self._switch.stop(UserError(f"{told}; the same command goes on from here once it works"))
            raise
        self._cache.put(key, self.server.model, reply)
        self._counted.add(key)
        self.counts.prompt_tokens += reply.prompt_tokens
        self.counts.completion_tokens += reply.completion_tokens
        return reply

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


def _price(server: ChatServer, prompt_tokens: int, completion_tokens: int) -> float:
    return (prompt_tokens * server.prompt_price + completion_tokens * server.completion_price) / 1e6


def _read(answer: object) -> Reply:
    told = read_shape(answer, _Completion, "chat completion")
    choice, usage = told.choices[0], told.usage or _Usage()
    text = clean(choice.message.content or "")
    return Reply(text, choice.finish_reason or "", usage.prompt_tokens or 0, usage.completion_tokens or 0)
