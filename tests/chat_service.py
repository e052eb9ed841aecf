"""A real OpenAI-compatible server, on a port of its own, whose answers are functions of what it is asked.

It writes flawed traces and grades with a hash, or answers as it is told to; it remembers every request, and can be told
to be slow, to refuse, to break off or to answer nonsense.
"""

import asyncio
import contextlib
import dataclasses
import hashlib
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from aiohttp import web

from tracelift_jax.groups.schema import CODE_DIMENSIONS, MATH_DIMENSIONS


@dataclasses.dataclass(frozen=True)
class Act:
    """How one request is met.

    Attributes:
        status: 200, or what it is refused with. content: what the model writes, None for what it should.
        wait: seconds before anything comes. headers: of the response. drop: break the connection instead.
        half: break it in the middle of the answer. drip: send blanks for a minute, one by one.
        body: the whole response instead. finish: why the model stopped.
        choices: how many answers it gives, whatever it is asked for; 0: as many as asked for.
    """

    status: int = 200
    content: str | None = None
    wait: float = 0.0
    headers: tuple[tuple[str, str], ...] = ()
    drop: bool = False
    half: bool = False
    drip: bool = False
    body: str | None = None
    finish: str = "stop"
    choices: int = 0


FINE = Act()
Behaviour = Callable[["Asked", int], Act]
"""(what is asked, how often just that was asked before) to how it is met."""


@dataclasses.dataclass(frozen=True)
class Asked:
    """One request: its body, and what was read of it."""

    body: dict[str, Any]
    key: str | None
    began: float
    peer: Any = None

    @property
    def prompt(self) -> str:
        return self.body["prompt"] if "prompt" in self.body else self.body["messages"][-1]["content"]

    @property
    def again(self) -> bool:
        """Whether it says that an earlier answer could not be used."""
        return "The answer before could not be used" in self.prompt

    @property
    def writes(self) -> bool:
        return "## Correct reasoning" in self.prompt

    @property
    def kinds(self) -> list[str]:
        return re.findall(r"^- `(\w+)`: ", self.prompt.partition("## Kinds of flaws")[2], re.MULTILINE)

    @property
    def reasoning(self) -> str:
        title, end = ("Correct reasoning", "Kinds of flaws") if self.writes else ("Reasoning", "Dimensions")
        return self.prompt.partition(f"## {title}\n\n")[2].partition(f"\n\n## {end}")[0]

    @property
    def identity(self) -> str:
        return json.dumps(self.body, sort_keys=True)


def flawed(positive: str, kind: str) -> str:
    """What the server writes for a kind: the last number of the text is another."""
    head, number, tail = re.fullmatch(r"(?s)(.*?)(\d+)(\D*)", positive).groups()  # pyright: ignore[reportOptionalMemberAccess]
    return f"{head}{int(number) + 1 + hashlib.sha256(kind.encode()).digest()[0]}{tail}"


def grades(reasoning: str, names: tuple[str, ...]) -> dict[str, float]:
    """What the server grades: halves from 0 to 10 by a hash."""
    digest = hashlib.sha256(reasoning.encode()).digest()
    return {name: digest[i] % 21 / 2 for i, name in enumerate((*names, "overall"))}


def right_answer(asked: Asked, number: int) -> str:
    if asked.writes:
        traces = [{"kind": kind, "reasoning": flawed(asked.reasoning, kind)} for kind in asked.kinds]
        return json.dumps({"traces": traces})
    code = "`non_leakage`" in asked.prompt
    return json.dumps(grades(asked.reasoning, CODE_DIMENSIONS if code else MATH_DIMENSIONS))


class ChatService:
    """The server, in a thread.

    Attributes:
        url: what to give as base_url.
        asked: every request. answered: those whose whole answer went out with status 200.
        now: how many are in work. most: the most there ever were.
        dripped: how often a minute of blanks was listened to until its end.
        hold_after: with so many answered, the others wait until this is None.
    """

    def __init__(
        self,
        behaviour: Behaviour = lambda asked, before: FINE,
        answer: Callable[[Asked, int], str] = right_answer,
    ):
        self.behaviour, self.answer = behaviour, answer
        self.asked: list[Asked] = []
        self.answered: list[Asked] = []
        self.most = self.now = self.dripped = 0
        self.hold_after: int | None = None
        self._before: Counter[str] = Counter()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "ChatService":
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.call_soon(self._ready.set)
        self._loop.run_forever()
        self._loop.run_until_complete(self._runner.cleanup())
        self._loop.close()

    async def _serve(self) -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._answer)
        app.router.add_post("/v1/completions", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"

    @property
    def answers(self) -> Counter[str]:
        """How often each request was answered."""
        return Counter(asked.identity for asked in self.answered)

    @property
    def repeated(self) -> int:
        """How many answers were given more than once."""
        return sum(count - 1 for count in self.answers.values())

    def forget(self) -> None:
        self.asked, self.answered, self.most = [], [], 0

    def wait_until(self, what: Callable[[], bool], seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < end, "it did not come to that"
            time.sleep(0.005)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        peer = request.transport and request.transport.get_extra_info("peername")
        asked = Asked(await request.json(), request.headers.get("Authorization"), time.monotonic(), peer)
        self.asked.append(asked)
        before = self._before[asked.identity]
        self._before[asked.identity] += 1
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            while self.hold_after is not None and len(self.answered) >= self.hold_after:
                await asyncio.sleep(0.005)
            return await self._act(request, asked, self.behaviour(asked, before))
        finally:
            self.now -= 1

    async def _act(self, request: web.Request, asked: Asked, act: Act) -> web.StreamResponse:
        await asyncio.sleep(act.wait)
        if act.drop or request.transport is None or request.transport.is_closing():
            if request.transport is not None:
                request.transport.close()
            return web.Response()
        if act.half or act.drip:
            response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": "5000"})
            await response.prepare(request)
            await response.write(b'{"choices": [')
            for _ in range(600 if act.drip else 0):
                await asyncio.sleep(0.1)
                await response.write(b" ")
            self.dripped += act.drip
            request.transport.close()
            return response
        if act.body is not None:
            return web.Response(body=act.body, status=act.status, content_type="application/json")
        if act.status != 200:
            error = {"message": f"no, {act.status}", "code": None}
            return web.json_response({"error": error}, status=act.status, headers=dict(act.headers))
        count = act.choices or asked.body.get("n", 1)
        contents = [self.answer(asked, number) if act.content is None else act.content for number in range(count)]
        self.answered.append(asked)
        chat = "messages" in asked.body
        return web.json_response(
            {
                "id": "1",
                "object": "chat.completion" if chat else "text_completion",
                "choices": [
                    {
                        "index": number,
                        **({"message": {"role": "assistant", "content": content}} if chat else {"text": content}),
                        "finish_reason": act.finish,
                    }
                    for number, content in reversed(list(enumerate(contents)))
                ],
                "usage": {"prompt_tokens": len(asked.prompt), "completion_tokens": sum(map(len, contents))},
            }
        )


@contextlib.contextmanager
def service(
    behaviour: Behaviour = lambda asked, before: FINE, answer: Callable[[Asked, int], str] = right_answer
) -> Iterator[ChatService]:
    with ChatService(behaviour, answer) as running:
        yield running
