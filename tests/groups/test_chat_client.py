"""Asking a server: what goes over the wire, one request for one answer, and what is said of a wrong setting."""

import asyncio
import contextlib
import dataclasses
import json
import shlex
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from apple_seeds import row, write_rows
from chat_service import FINE, Act, ChatService, service
from tiny import command

from tracelift_jax import gin_config
from tracelift_jax.config import ChatServer, Recipe
from tracelift_jax.errors import UserError
from tracelift_jax.groups import load_groups
from tracelift_jax.groups.answer_cache import AnswerCache, Reply, answer_key
from tracelift_jax.groups.chat_client import Chat, Switch
from tracelift_jax.groups.flaw_prompts import grading_schema
from tracelift_jax.remote.client import GivenUp, Stopped

ROOT = Path(__file__).parents[2]
PROMPT = "## Reasoning\n\n1 + 1 = 2\n\n## Dimensions"
SCHEMA = grading_schema("math")


def talk(tmp_path: Path, server: ChatServer, say: Callable[[Chat], Awaitable[Any]]) -> tuple[Any, Chat]:
    async def main() -> tuple[Any, Chat]:
        with contextlib.closing(AnswerCache(tmp_path / "answers")) as cache:
            chat = Chat(server, cache, Switch())
            try:
                return await say(chat), chat
            finally:
                await chat.close()

    return asyncio.run(main())


def test_the_same_question_is_sent_once(tmp_path):
    async def say(chat: Chat) -> list[Reply]:
        at_once = await asyncio.gather(*(chat.ask(PROMPT, SCHEMA, 1) for _ in range(5)), chat.ask("other", SCHEMA, 1))
        return [*at_once, await chat.ask(PROMPT, SCHEMA, 1)]

    with service(lambda asked, before: Act(wait=0.05)) as running:
        replies, chat = talk(tmp_path, ChatServer(running.url, "fake"), say)
        assert len(running.asked) == 2 and len({reply.text for reply in replies}) == 2
        assert replies[0] == replies[4] == replies[6] and replies[5] != replies[0]
        assert replies[0].finish == "stop" and replies[0].prompt_tokens == len(PROMPT)
        assert (chat.counts.requests, chat.counts.cached) == (2, 0)
        # Another attempt, another model, another temperature have answers of their own; another address has not.
        for attempt, server, sent in [
            (2, ChatServer(running.url, "fake"), 3),
            (1, ChatServer(running.url, "other"), 4),
            (1, ChatServer(running.url, "fake", temperature=0.1), 5),
            (1, ChatServer(running.url + "/", "fake", concurrency=1, retries=1, prompt_price=3.0), 5),
        ]:
            talk(tmp_path, server, lambda chat, attempt=attempt: chat.ask(PROMPT, SCHEMA, attempt))
            assert len(running.asked) == sent


def test_a_request_that_failed_is_sent_again_when_asked_again(tmp_path):
    async def say(chat: Chat) -> Reply:
        with pytest.raises(GivenUp, match="500 no, 500"):
            await chat.ask(PROMPT, SCHEMA, 1)
        return await chat.ask(PROMPT, SCHEMA, 1)

    with service(lambda asked, before: FINE if before == 2 else Act(500)) as running:
        _, chat = talk(tmp_path, ChatServer(running.url, "fake", retries=1, backoff=0.01), say)
        assert len(running.asked) == 3 and chat.counts.failures == 1 and chat.counts.retries == 1


def test_nobody_waits_for_a_retry_that_will_not_be_sent(tmp_path):
    async def main() -> None:
        with contextlib.closing(AnswerCache(tmp_path / "answers")) as cache:
            switch = Switch()
            chat = Chat(ChatServer(running.url, "fake", concurrency=1), cache, switch)
            asking = [asyncio.create_task(chat.ask(prompt, SCHEMA, 1)) for prompt in ("a", "b")]
            while chat.counts.retries == 0:
                await asyncio.sleep(0.01)
            switch.stop()
            async with asyncio.timeout(20):
                results = await asyncio.gather(*asking, return_exceptions=True)
            assert [type(result) for result in results] == [Stopped, Stopped]
            await chat.close()

    with service(lambda asked, before: Act(429, headers=(("Retry-After", "60"),))) as running:
        asyncio.run(main())
        assert len(running.asked) == 1


def test_what_goes_over_the_wire(tmp_path, monkeypatch):
    def body(**changes: Any) -> tuple[dict[str, Any], str | None]:
        with service() as running:
            server = ChatServer(running.url, "fake", **changes)
            talk(tmp_path / str(len(changes)), server, lambda chat: chat.ask(PROMPT, SCHEMA, 1))
            [asked] = running.asked
            return asked.body, asked.key

    message = {"model": "fake", "messages": [{"role": "user", "content": PROMPT}]}
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    schema = {"name": "answer", "strict": True, "schema": SCHEMA}
    form = {"type": "json_schema", "json_schema": schema}
    assert body() == ({**message, "temperature": 0.7, "max_tokens": 4096, "response_format": form}, "Bearer none")
    monkeypatch.setenv("OPENAI_API_KEY", "first")
    assert body(structure="json_object") == (
        {**message, "temperature": 0.7, "max_tokens": 4096, "response_format": {"type": "json_object"}},
        "Bearer first",
    )
    monkeypatch.setenv("OTHER_KEY", "second\n")
    extra = {"max_completion_tokens": 100, "seed": 3}
    assert body(structure="text", temperature=None, max_tokens=None, extra=extra, key_variable="OTHER_KEY") == (
        {**message, **extra},
        "Bearer second",
    )


def test_a_key_that_cannot_be_one(tmp_path, monkeypatch):
    monkeypatch.setenv("OTHER_KEY", "schlüssel")
    with pytest.raises(UserError, match=r"^\$OTHER_KEY: holds what cannot be a key"):
        talk(tmp_path, ChatServer("http://localhost/v1", "m", key_variable="OTHER_KEY"), lambda chat: chat.close())


def test_the_cache_keeps_what_it_is_given(tmp_path):
    path, reply = tmp_path / "new" / "answers", Reply("“ü”\n{}", "stop", 3, 4)
    with contextlib.closing(AnswerCache(path)) as cache:
        assert cache.get("a") is None
        cache.put("a", "m", reply)
        assert cache.get("a") == reply and cache.get("b") is None
    with contextlib.closing(AnswerCache(path)) as cache:
        assert cache.get("a") == reply
    assert [file.name for file in path.parent.iterdir()] == ["answers"]
    request = {"model": "m", "messages": [1]}
    assert answer_key(request, 1) == answer_key({"messages": [1], "model": "m"}, 1) != answer_key(request, 2)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        *(
            ({"base_url": url}, f"base_url must be like http://localhost:8000/v1, got {url!r}")
            for url in ("localhost:8000", "http://", "http://x:80000/v1", "http://[::1/v1", "http://a b/v1", "")
        ),
        ({"extra": {"x": {1}}}, "extra must be what JSON can hold, got {'x': {1}}"),
        ({"model": ""}, "model must not be empty"),
        ({"concurrency": 0}, "concurrency must be at least 1, got 0"),
        ({"attempts": 0}, "attempts must be at least 1, got 0"),
        ({"max_tokens": 0}, "max_tokens must be at least 1, got 0"),
        ({"temperature": -0.1}, "temperature must not be negative, got -0.1"),
        ({"retries": -1}, "retries must not be negative, got -1"),
        ({"deadline": 0}, "deadline must be above 0, got 0.0"),
        ({"structure": "xml"}, "structure: expected one of 'json_schema', 'json_object', 'text', got 'xml' (str)"),
    ],
)
def test_wrong_settings(changes, line):
    with pytest.raises(UserError) as caught:
        ChatServer(**{"base_url": "http://x/v1", "model": "m"} | changes)
    assert str(caught.value).startswith("ChatServer.") and str(caught.value).removeprefix("ChatServer.") == line


def test_wrong_writers():
    server = ChatServer("http://x/v1", "m")
    with pytest.raises(UserError, match=r"Recipe\.writers must not be empty"):
        Recipe(writers=())
    with pytest.raises(UserError, match=r"Recipe\.writers: two of them are the same"):
        Recipe(writers=(server, "engine", dataclasses.replace(server)))


def header(name: str) -> list[str]:
    """The command of an experiment's header, as words."""
    text = (ROOT / "experiments" / "groups" / f"{name}.gin").read_text().split("from __gin__")[0]
    [line] = [line[4:] for line in text.replace(" \\\n#", "").splitlines() if line.startswith("#   tracelift ")]
    return shlex.split(line)


def read_header(name: str) -> Recipe:
    files, bindings, rest = gin_config.parse_flags(header(name))
    assert rest == ["tracelift", "build-groups", "train.jsonl.gz", "--out=groups.jsonl", "--summary=groups.json"]
    assert files == [f"experiments/groups/{name}.gin"]
    return gin_config.load(Recipe, [str(ROOT / files[0])], bindings).value


def test_the_experiments_that_ship():
    server = ChatServer("http://localhost:8000/v1", "Qwen/Qwen2.5-7B-Instruct", concurrency=16)
    recipe = read_header("server")
    assert recipe == Recipe(writers=(server,), grader=dataclasses.replace(server, temperature=0.0))
    assert read_header("engine_and_server") == Recipe(writers=("engine", server))


def build_with(running: ChatService, tmp_path: Path, name: str, *more: str) -> Path:
    seeds, out = write_rows(tmp_path / "apples.jsonl", [row(0), row(1)]), tmp_path / "groups.jsonl"
    gin = ROOT / "experiments" / "groups" / f"{name}.gin"
    flags = [f"--gin_file={gin}", f"--gin.URL={running.url}", "--gin.MODEL=fake", f"--out={out}", *more]
    outcome = command("build-groups", seeds, *flags)
    assert (outcome.code, outcome.errors) == (0, "")
    return out


def test_the_command(tmp_path, capsys):
    summary = tmp_path / "summary.json"
    with service() as running:
        prices = ("--gin.ChatServer.prompt_price=1.0", "--gin.ChatServer.completion_price=2.0")
        flags = (
            "--gin.MOST=6",
            "--negatives=5",
            "--most=5",
            "--seed=3",
            f"--summary={summary}",
            "--gin.STRUCTURE=text",
        )
        out = build_with(running, tmp_path, "server", *flags, *prices)
        assert {asked.body["temperature"] for asked in running.asked if asked.writes} == {0.7}
        assert {asked.body["temperature"] for asked in running.asked if not asked.writes} == {0.0}
        assert not any("response_format" in asked.body for asked in running.asked)
        writing, grading = (
            sum(len(asked.prompt) for asked in running.asked if asked.writes == writes) for writes in (True, False)
        )
    assert {len(group.negatives) for group in load_groups(out)} == {5}
    content = json.loads(summary.read_text())
    assert [content["recipe"][name] for name in ("negatives", "most", "seed")] == [5, 5, 3]
    told = [server["prompt_tokens"] for server in content["servers"]]
    assert told == [writing, grading]
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == f"{out}: 2 groups with 10 flawed traces, of 2 seeds"
    for line, server, role in zip(shown[2:], content["servers"], ("writer", "grader"), strict=True):
        cost = (server["prompt_tokens"] + 2 * server["completion_tokens"]) / 1e6
        requests = 2 if role == "writer" else 10
        assert line == (
            f"{role} fake at {server['base_url']}: {requests} requests, 0 of them retries, 0 cached; "
            f"{server['prompt_tokens']} prompt and {server['completion_tokens']} completion tokens; "
            f"cost {cost:.4f}, with the cached {cost:.4f}"
        )


def test_the_command_with_engine_and_server(tmp_path):
    with service() as running:
        out = build_with(running, tmp_path, "engine_and_server")
        assert len(running.asked) == 2 and all(len(asked.kinds) == 4 for asked in running.asked)
    assert len(load_groups(out)) == 2


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--gin.MODEL=m"], "URL has no value: give --gin.URL=..."),
        (["--gin.URL=x", "--gin.MODEL=m"], "--gin.URL=x: ChatServer.base_url must be like http://"),
        (["--gin.URL=http://x", "--gin.MODEL=m", "--gin.NEGATIVES=0"], "--gin.NEGATIVES=0: Recipe.negatives"),
        (["--gin.URL=http://x", "--gin.MODEL=m", "--negatives=9"], "Recipe.most (--most) must be from"),
    ],
)
def test_wrong_flags(tmp_path, flags, line):
    gin = ROOT / "experiments" / "groups" / "server.gin"
    outcome = command("build-groups", "no.jsonl", f"--out={tmp_path / 'o'}", f"--gin_file={gin}", *flags)
    assert outcome.code == 2 and outcome.errors.startswith(f"tracelift: {line}")
    assert outcome.errors.count("\n") == 1
