"""A build that is killed, interrupted or stopped: nothing that was answered is lost or asked for again."""

import contextlib
import json
import re
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from apple_seeds import positive, row, write_rows
from chat_service import FINE, Act, Asked, ChatService, service
from tiny import command, start

from tracelift_jax.groups import build_groups, load_groups
from tracelift_jax.groups.build import Recipe
from tracelift_jax.groups.chat_server import ChatServer
from tracelift_jax.remote import client

SEEDS = 6
REQUESTS = SEEDS * 9
"""One to write eight flawed traces and one to grade each."""


@pytest.fixture
def seeds(tmp_path) -> Path:
    return write_rows(tmp_path / "apples.jsonl", [row(index) for index in range(SEEDS)])


def write_gin(folder: Path, url: str, **changes: Any) -> Path:
    """A recipe of one server that writes and grades, without the modules of training, whose import takes seconds."""
    settings = {"base_url": url, "model": "fake", "concurrency": 4, "backoff": 0.01, "deadline": 20.0} | changes
    lines = [f"chat_server.ChatServer.{name} = {value!r}" for name, value in settings.items()]
    file = folder / "server.gin"
    file.write_text(
        "from __gin__ import dynamic_registration\n"
        "from tracelift_jax.groups import build\nfrom tracelift_jax.groups import chat_server\n"
        "build.Recipe.writers = (@chat_server.ChatServer(),)\n"
        "build.Recipe.grader = @chat_server.ChatServer()\n" + "\n".join(lines) + "\n"
    )
    return file


def seed_of(asked: Asked) -> int:
    return next(index for index in range(SEEDS) if row(index)["question"] in asked.prompt)


def kept(out: Path) -> int:
    """How many answers lie in the cache that a killed process left."""
    with contextlib.closing(sqlite3.connect(f"{out}.answers")) as file:
        return file.execute("SELECT count(*) FROM answers").fetchone()[0]


@contextlib.contextmanager
def held(running: ChatService, answers: int, *arguments: str | Path) -> Iterator[subprocess.Popen]:
    """A process that has got so many answers and waits for four more."""
    running.hold_after = answers
    process = start(*arguments)
    try:
        running.wait_until(
            lambda: (len(running.answered) >= answers and running.now == 4) or process.poll() is not None
        )
        assert process.poll() is None, process.communicate()
        time.sleep(0.3)  # what was answered arrives
        yield process
    finally:
        process.kill()
        process.communicate()


def leave(process: subprocess.Popen, number: int) -> tuple[int, str]:
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


def test_killed_and_interrupted_the_file_comes_out_the_same(seeds, tmp_path):
    whole, out = tmp_path / "whole.jsonl", tmp_path / "groups.jsonl"
    with service() as running:
        server = ChatServer(running.url, "fake")
        build_groups(seeds, whole, Recipe(writers=(server,), grader=server))
        assert len(running.asked) == REQUESTS
    with service() as running:
        flags = ("build-groups", seeds, f"--out={out}", f"--gin_file={write_gin(tmp_path, running.url)}")
        with held(running, 13, *flags) as process:
            # Its answers are its own as long as it lives.
            impatient = [f"--gin.ChatServer.{name}=0" for name in ("retries", "max_failures")]
            more = (f"--out={out}.b", f"--cache={out}.answers", "--gin.ChatServer.deadline=0.5", *impatient)
            other = command("build-groups", seeds, flags[-1], *more)
            line = f"tracelift: {out}.answers: is in use by another build; wait for it or give another --cache\n"
            assert (other.code, other.errors) == (2, line)
            assert leave(process, signal.SIGKILL) == (-signal.SIGKILL, "")
        assert kept(out) == len(running.answered) < REQUESTS
        assert whole.read_bytes().startswith(out.read_bytes())
        with held(running, 36, *flags) as process:
            process.send_signal(signal.SIGINT)
            assert process.stderr is not None
            assert process.stderr.readline().startswith("stopping once the answers in flight are here")
            # The first seed in flight stops early, for it would have to ask again; the others' answers come later.
            first = min(seed_of(asked) for asked in running.asked[-4:])
            running.behaviour = lambda asked, before: Act(content="no") if seed_of(asked) == first else Act(wait=1.0)
            running.hold_after = None
            told, errors = process.communicate(timeout=60)
            assert process.returncode == 130 and told == ""
            assert errors == f"{out}: stopped; the same command goes on from here\n"
        assert kept(out) == len(running.answered) and 40 <= len(running.answered) < REQUESTS
        assert out.read_bytes() and whole.read_bytes().startswith(out.read_bytes())
        running.behaviour = lambda asked, before: FINE
        assert not any(asked.again for asked in running.asked)
        process = start(*flags)
        told, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, "")
        again = sum(asked.again for asked in running.answered)
        assert len(running.answered) == REQUESTS + again and again >= 1 and running.repeated == 0
    assert out.read_bytes() == whole.read_bytes()
    assert re.search(rf"^{re.escape(str(out))}: 6 groups with 48 flawed traces, of 6 seeds$", told, re.MULTILINE)
    assert re.search(r"^dropped: none; [1-5] groups were there before; ", told, re.MULTILINE)
    assert re.search(
        r"^writer and grader fake at http\S+: \d+ requests, 0 of them retries, 4\d cached; \d+ prompt and",
        told,
        re.MULTILINE,
    )


def test_a_second_interrupt_leaves_at_once(seeds, tmp_path):
    out = tmp_path / "groups.jsonl"
    with service() as running:
        gin = write_gin(tmp_path, running.url, deadline=1e3)
        with held(running, 5, "build-groups", seeds, f"--out={out}", f"--gin_file={gin}") as process:
            process.send_signal(signal.SIGTERM)
            assert process.stderr is not None
            assert "again to leave without them" in process.stderr.readline()
            code, errors = leave(process, signal.SIGINT)
            assert (code, errors) == (130, f"{out}: stopped; the same command goes on from here\n")
        assert 5 <= kept(out) == len(running.answered) < REQUESTS


def stopped(seeds: Path, out: Path, running: ChatService, *flags: str, **changes: Any) -> str:
    """The one line with which the command leaves, and what it is told to do then."""
    gin = write_gin(out.parent, running.url, **changes)
    outcome = command("build-groups", seeds, f"--out={out}", f"--gin_file={gin}", *flags)
    [line] = outcome.errors.splitlines()
    assert outcome.code == 2 and line.startswith(f"tracelift: {running.url} (fake): ")
    return line.removeprefix(f"tracelift: {running.url} (fake): ")


@pytest.mark.parametrize(
    ("act", "line"),
    [
        (Act(401), "401 no, 401; see that $FAKE_KEY (ChatServer.key_variable) holds its key"),
        (Act(402), "402 no, 402; it wants to be paid"),
        (Act(403), "403 no, 403; see that $FAKE_KEY (ChatServer.key_variable) holds a key that may use the model"),
        (
            Act(404),
            "404 no, 404; see that ChatServer.base_url ends before /chat/completions and that ChatServer.model is "
            "served there",
        ),
        (
            Act(400),
            "refuses what it is asked: 400 no, 400; see ChatServer.model, structure, temperature, max_tokens and extra",
        ),
        (
            Act(429, body='{"error": {"message": "all spent", "code": "insufficient_quota"}}'),
            "429 all spent; it wants to be paid",
        ),
    ],
)
def test_what_no_retry_mends_stops_at_once(seeds, tmp_path, act, line):
    out = tmp_path / "groups.jsonl"
    with service(lambda asked, before: act) as running:
        assert stopped(seeds, out, running, key_variable="FAKE_KEY", concurrency=2) == line
        assert len(running.asked) <= 2
        running.behaviour = lambda asked, before: FINE
        build_groups(seeds, out, Recipe(writers=(ChatServer(running.url, "fake"),)))
        assert running.repeated == 0
    assert len(load_groups(out)) == SEEDS


def test_a_server_that_is_down(seeds, tmp_path):
    out = tmp_path / "groups.jsonl"
    with service(lambda asked, before: Act(503)) as running:
        line = stopped(seeds, out, running, retries=1, max_failures=2, concurrency=1)
        assert (
            line
            == "3 requests without an answer, the last: 503 no, 503; the same command goes on from here once it works"
        )
        assert len(running.asked) == 6
    assert out.read_bytes() == b""
    line = stopped(seeds, out, running, retries=1, max_failures=0)  # by now it is gone
    assert line.startswith("1 requests without an answer, the last: APIConnectionError: ")


def test_a_request_that_is_refused_among_answered_ones(seeds, tmp_path, capsys):
    out = tmp_path / "groups.jsonl"

    def behave(asked: Asked, before: int) -> Act:
        return Act(400) if asked.writes and asked.reasoning == positive(3) else FINE

    with service(behave) as running:
        summary = tmp_path / "summary.json"
        gin = write_gin(tmp_path, running.url, concurrency=1)
        outcome = command("build-groups", seeds, f"--out={out}", f"--gin_file={gin}", f"--summary={summary}")
        waiting = f"1 seeds are unfinished ({running.url} (fake): 400 no, 400)"
        line = f"tracelift: {out}: {waiting}; the same command goes on from here\n"
        assert (outcome.code, outcome.errors) == (2, line)
        assert json.loads(summary.read_text())["unfinished"] == {f"{running.url} (fake): 400 no, 400": 1}
        assert len(load_groups(out)) == SEEDS - 1
        assert f"{out}: 5 groups with 40 flawed traces, of 6 seeds\ndropped: none; 0 groups" in capsys.readouterr().out
        assert len([asked for asked in running.asked if asked.reasoning == positive(3)]) == 1


Pause = Callable[[float], tuple[tuple[str, str], ...]]


def test_the_server_says_when_to_come_again(seeds, tmp_path):
    write_rows(seeds, [row(0)])
    met: list[float] = []

    def behave(asked: Asked, before: int) -> Act:
        met.append(asked.began)
        date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 2))
        return [Act(429, headers=(("Retry-After", "0.6"),)), Act(503, headers=(("Retry-After", date),)), FINE][
            len(met) - 1
        ]

    with service(behave) as running:
        server = ChatServer(running.url, "fake", backoff=0.01)
        counts = build_groups(seeds, tmp_path / "groups.jsonl", Recipe(writers=(server,)))
    assert counts.groups == 1 and counts.servers[0]["retries"] == 2
    first, second = met[1] - met[0], met[2] - met[1]
    assert 0.6 <= first < 1.5 and 0.95 <= second < 3.5


def test_a_server_that_wants_to_be_left_alone_for_long_is_given_up(seeds, tmp_path, monkeypatch):
    monkeypatch.setattr(client, "MAX_RETRY_AFTER", 0.2)
    with service(lambda asked, before: Act(429, headers=(("Retry-After", "1"),))) as running:
        line = stopped(seeds, tmp_path / "groups.jsonl", running, max_failures=0, concurrency=1)
        assert len(running.asked) == 1
    assert line.startswith("1 requests without an answer, the last: 429 no, 429; ")
