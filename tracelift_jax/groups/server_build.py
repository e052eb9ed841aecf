"""Builds in which servers write or grade: many seeds at a time, their groups in order.

What becomes of a seed is a function of the answers, and those are kept. So a build that goes on makes every group again
from what was kept, which costs no request, and its file comes out as if it had never stopped.
"""

import asyncio
import collections
import contextlib
import dataclasses
import itertools
import random
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tracelift_jax.errors import UserError
from tracelift_jax.groups.answer_cache import AnswerCache
from tracelift_jax.groups.build import (
    ENGINES,
    Outcome,
    Recipe,
    end_group,
    engine_traces,
    sift,
    start_group,
    without_duplicates,
)
from tracelift_jax.groups.build_progress import Bar
from tracelift_jax.groups.chat_client import Chat, NotKept, Switch
from tracelift_jax.groups.chat_server import ChatServer
from tracelift_jax.groups.filters import Filter, changed
from tracelift_jax.groups.graders import grade
from tracelift_jax.groups.group_file import GroupFile
from tracelift_jax.groups.schema import POSITIVE, Trace
from tracelift_jax.groups.seeds import Seed
from tracelift_jax.groups.writers import write
from tracelift_jax.remote.client import GivenUp, Stopped

Take = Callable[[Outcome], None]
Result = TypeVar("Result")


class ServerBuild:
    """One build, its servers and their answers.

    Args:
        cache: where answers are kept. say: told what the user should know at once.

    Attributes:
        chats: a client for each server of the recipe.
    """

    def __init__(self, recipe: Recipe, file: GroupFile, cache: AnswerCache, say: Callable[[str], None]):
        self._recipe, self._file, self._say = recipe, file, say
        self._switch = Switch()
        self.chats = [Chat(server, cache, self._switch) for server in recipe.servers]

    def told(self) -> str:
        """What was asked so far, in a few words."""
        counts = [chat.counts for chat in self.chats]
        requests, retries = sum(c.requests for c in counts), sum(c.retries for c in counts)
        failures, cached = sum(c.failures for c in counts), sum(c.cached for c in counts)
        given_up = f", {failures} given up" if failures else ""
        return f"{requests} requests, {retries} retries{given_up}, {cached} cached"

    def run(self, problems: Sequence[Seed], take: Take) -> None:
        """As `build_by_servers`."""
        asyncio.run(self._run(problems, take))
        if self._switch.error:
            raise self._switch.error
        if self._switch.stopping:
            raise KeyboardInterrupt

    async def _run(self, problems: Sequence[Seed], take: Take) -> None:
        by_id = {problem.problem_id: problem for problem in problems}
        try:
            with self._stopped_by_signals():
                await self._check_ends(by_id)
                self._file.open()
                await self._make_all(problems, take)
        finally:
            for chat in self.chats:
                await chat.close()

    async def _check_ends(self, by_id: Mapping[str, Seed]) -> None:
        """Compares the first and the last group of the file with what the answers that were kept make of them."""
        self._switch.cache_only = True
        for problem_id in self._file.ends():
            try:
                self._file.check(problem_id, (await self._make(by_id[problem_id])).group)
            except NotKept:
                raise UserError(f"{self._file.other}, or give the --cache of its answers") from None
        self._switch.cache_only = False

    async def _make_all(self, problems: Sequence[Seed], take: Take) -> None:
        ahead = 2 + 2 * sum(chat.server.concurrency for chat in self.chats)
        waiting: collections.deque[asyncio.Task[Outcome]] = collections.deque()
        coming = without_duplicates(problems)
        try:
            while True:
                for problem, duplicate in itertools.islice(coming, ahead - len(waiting)):
                    waiting.append(asyncio.create_task(self._outcome(problem, duplicate)))
                if not waiting:
                    return
                take(await waiting.popleft())
        except Stopped:
            pass
        finally:
            if waiting:
                self._switch.stop()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def _outcome(self, seed: Seed, duplicate: bool) -> Outcome:
        if duplicate:
            return Outcome(None, "duplicate")
        try:
            return await self._make(seed)
        except GivenUp as error:
            return Outcome(None, unfinished=str(error))

    async def _make(self, seed: Seed) -> Outcome:
        """What becomes of a seed.

        Raises:
            GivenUp: a server did not answer. Stopped: the build is being left. NotKept: an answer is not in the cache.
        """
        wanted = start_group(seed, self._recipe)
        if isinstance(wanted, str):
            return Outcome(None, wanted)
        traces, dropped = await self._write(wanted)
        positive = Trace(wanted.positive, POSITIVE)
        if len(traces) >= self._recipe.negatives and isinstance(self._recipe.grader, ChatServer):
            graded = positive if seed.rubric_name == "math" else await self._grade(seed, positive)
            if isinstance(graded, str):
                return Outcome(None, "positive not graded", dropped)
            positive = graded
            graded = await _together(*(self._grade(seed, trace) for trace in traces))
            dropped += tuple(f"grader: {reason}" for reason in graded if isinstance(reason, str))
            traces = [trace for trace in graded if isinstance(trace, Trace)]
        return end_group(seed, positive, traces, dropped, self._recipe)

    async def _write(self, wanted: Filter) -> tuple[list[Trace], tuple[str, ...]]:
        """The flawed traces of all writers, graded by the engine, and why others were dropped."""
        recipe, engine = self._recipe, ENGINES[wanted.seed.rubric_name]
        kinds = list(wanted.kinds)
        random.Random(f"{recipe.seed}\0{wanted.seed.problem_id}\0kinds").shuffle(kinds)
        shares = [kinds[: recipe.most][turn :: len(recipe.writers)] for turn in range(len(recipe.writers))]
        all_written = await _together(
            *(
                write(self._chat(writer), wanted, share)
                for writer, share in zip(recipe.writers, shares, strict=True)
                if isinstance(writer, ChatServer)
            )
        )
        traces = [
            Trace(text, engine.severity(kind), kind, changed(wanted.positive, text))
            for written in all_written
            for kind, text in written.traces
        ]
        if "engine" in recipe.writers:
            others = tuple(kind for kind in wanted.kinds if kind not in {trace.negative_kind for trace in traces})
            traces += engine_traces(wanted, others, recipe.most - len(traces), recipe)
        good, dropped = sift(wanted, traces)
        return good, (*(reason for written in all_written for reason in written.dropped), *dropped)

    async def _grade(self, seed: Seed, trace: Trace) -> Trace | str:
        """The trace as the server grades it, or why there is no grade."""
        if not isinstance(self._recipe.grader, ChatServer):
            return trace
        graded = await grade(self._chat(self._recipe.grader), seed, trace.reasoning)
        return graded if isinstance(graded, str) else dataclasses.replace(trace, rubric=graded)

    def _chat(self, server: ChatServer) -> Chat:
        return next(chat for chat in self.chats if chat.server == server)

    @contextlib.contextmanager
    def _stopped_by_signals(self) -> Iterator[None]:
        """The first Ctrl-C or SIGTERM waits for what is in flight, a second one has its usual effect."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop, numbers = asyncio.get_running_loop(), (signal.SIGINT, signal.SIGTERM)

        def restore() -> None:
            for number in numbers:
                loop.remove_signal_handler(number)

        def stop() -> None:
            restore()
            self._say("stopping once the answers in flight are here; again to leave without them")
            self._switch.stop()

        for number in numbers:
            loop.add_signal_handler(number, stop)
        try:
            yield
        finally:
            restore()


def build_by_servers(
    problems: Sequence[Seed], recipe: Recipe, file: GroupFile, cache: str | Path, take: Take, bar: Bar
) -> list[Mapping[str, Any]]:
    """Makes the groups of seeds.

    Args:
        cache: the file in which answers are kept. take: told what became of every seed, in their order.

    Returns:
        What asking each server took.

    Raises:
        UserError: a server or the cache cannot be used, or the file holds another build.
        KeyboardInterrupt: the user asked to stop; what was in flight has been kept.
    """
    with contextlib.closing(AnswerCache(cache)) as answers:
        build = ServerBuild(recipe, file, answers, bar.say)
        bar.told = build.told
        build.run(problems, take)
        return [{"role": _role(chat.server, recipe), **chat.cost()} for chat in build.chats]


def _role(server: ChatServer, recipe: Recipe) -> str:
    roles = ("writer" if server in recipe.writers else "", "grader" if server == recipe.grader else "")
    return " and ".join(role for role in roles if role)


async def _together(*work: Coroutine[Any, Any, Result]) -> list[Result]:
    """All results; where some fail, the others are waited for, so that their answers are kept."""
    results = await asyncio.gather(*work, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]
