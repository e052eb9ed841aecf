"""`tracelift serve --rm`: METHOD's wire format, grades that are right whoever asks beside, and errors that say why."""

import asyncio
import contextlib
import dataclasses
import json
import signal
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import numpy as np
import pytest
from aiohttp.test_utils import TestClient, TestServer
from serve_files import copied
from tiny import command, start

from tracelift_jax.config import Service
from tracelift_jax.serve.scorer import Item, LoadedScorer
from tracelift_jax.serve.server import Server

LIMITS = Service(max_items=20, max_bytes=60_000, max_waiting=48, read_seconds=0.5)


@pytest.fixture(scope="module")
def limited(scorer) -> LoadedScorer:
    return copied(scorer, config=dataclasses.replace(scorer.config, service=LIMITS))


Client = TestClient[Any, Any]


@contextlib.asynccontextmanager
async def served(scorer: LoadedScorer) -> AsyncIterator[tuple[Client, Server]]:
    """A real server on a free port, and a client."""
    server = Server(scorer)
    work = asyncio.create_task(server.worker.run())
    async with TestClient(TestServer(server.app())) as client:
        yield client, server
    work.cancel()


def ask(scorer: LoadedScorer, questions: Callable[[Client, Server], Awaitable[None]]) -> None:
    async def all_of_it() -> None:
        async with asyncio.timeout(300), served(scorer) as (client, server):
            await questions(client, server)

    asyncio.run(all_of_it())


def wire(items: list[Item]) -> list[dict[str, str]]:
    return [dataclasses.asdict(item) for item in items]


async def post(client: Client, body: Any) -> tuple[int, dict]:
    data = body if isinstance(body, bytes | str) else json.dumps(body)
    async with client.post("/score", data=data) as response:
        assert response.content_type == "application/json"
        return response.status, await response.json()


def agree(found: dict, expected, first: int, count: int) -> None:
    assert set(found) == {"scores", "results"}
    # Clients take either list, and of an object the first of these that it has.
    names = ("total_score", "score", "reward", "total", "value")
    assert found["scores"] == [next(one[name] for name in names if name in one) for one in found["results"]]
    wanted = slice(first, first + count)
    np.testing.assert_allclose(found["scores"], expected.score[wanted], atol=1e-5)
    np.testing.assert_allclose([one["total"] for one in found["results"]], expected.total[wanted], atol=1e-5)
    rubric = [list(one["rubric"].values()) for one in found["results"]]
    np.testing.assert_allclose(rubric, expected.rubric[wanted], atol=6e-5)


def test_what_is_asked_is_answered(limited, items, expected):
    async def questions(client: Client, server: Server) -> None:
        status, found = await post(client, {"items": wire(items[:7]), "max_length": 3072, "batch_size": 2})
        assert status == 200
        agree(found, expected, 0, 7)
        plain = [{"problem": item.problem, "reasoning": item.reasoning} for item in items[7:9]]
        status, found = await post(client, {"items": plain})
        assert status == 200
        agree(found, expected, 7, 2)
        code = {**plain[0], "task_name": "code", "task_type": "stdin", "tests": "f(1) == 2"}
        status, found = await post(client, {"items": [code]})
        assert next(iter(found["results"][0]["rubric"])) == "task_understanding"
        assert await post(client, {"items": []}) == (200, {"scores": [], "results": []})
        # Cut to `max_length`, the problem tells less.
        status, found = await post(client, {"items": wire(items[:1]), "max_length": 40})
        [alone] = limited.grade([limited.read(items[0], 40)])
        np.testing.assert_allclose(found["scores"], [alone.score], atol=1e-5)
        assert abs(alone.score - expected.score[0]) > 1e-3

    ask(limited, questions)


async def metrics(client: Client) -> dict[str, str]:
    text = await (await client.get("/metrics")).text()
    return dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))


def test_the_device_waits_a_little_for_more(limited, items, expected):
    patient = copied(limited, config=dataclasses.replace(limited.config, service=Service(gather_ms=1000.0)))

    async def questions(client: Client, server: Server) -> None:
        first = asyncio.create_task(post(client, {"items": wire(items[:2])}))
        while server.worker._waiting != 2:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)
        _, second = await post(client, {"items": wire(items[2:5])})
        agree((await first)[1], expected, 0, 2)
        agree(second, expected, 2, 3)
        assert (await metrics(client))["tracelift_rm_gathered_items_count"] == "1.0"

    ask(patient, questions)


def test_requests_at_the_same_time_are_graded_together(limited, items, expected):
    wide = copied(limited, config=dataclasses.replace(limited.config, service=Service(gather_ms=50.0)))

    async def questions(client: Client, server: Server) -> None:
        sizes = [1 + n % 4 for n in range(40)]
        firsts = [n * 2 for n in range(40)]
        answers = await asyncio.gather(
            *(post(client, {"items": wire(items[a : a + n])}) for a, n in zip(firsts, sizes, strict=True))
        )
        for (status, found), first, count in zip(answers, firsts, sizes, strict=True):
            assert status == 200
            agree(found, expected, first, count)
        shown = await metrics(client)
        assert float(shown["tracelift_rm_items_total"]) == sum(sizes)
        assert float(shown['tracelift_rm_requests_total{path="/score",status="200"}']) == 40
        assert float(shown["tracelift_rm_waiting_items"]) == 0
        assert float(shown["tracelift_rm_gathered_items_count"]) <= 8  # not one by one
        assert float(shown["tracelift_rm_gathered_items_sum"]) == sum(sizes)
        assert float(shown["tracelift_rm_score_seconds_count"]) == 40

    ask(wide, questions)


ONE = {"problem": "p", "reasoning": "r"}
BAD = [
    (b"{", 400, "the request is not JSON (Expecting property name enclosed in double quotes, line 1, column 2)"),
    (b"", 400, "the request is not JSON"),
    (b"\xff\xfe", 400, "the request is not UTF-8"),
    ("[" * 50_000, 400, "the request is JSON that cannot be read"),
    ("9" * 5_000, 400, "the request is JSON that cannot be read"),
    ([ONE], 400, "the request must be a JSON object, not list"),
    ({}, 400, 'field "items" is missing'),
    ({"items": ONE}, 400, 'field "items" must be a list, not dict'),
    ({"items": [ONE], "item": 1}, 400, "the request: unknown field 'item'; there are items, max_length, batch_size"),
    ({"items": [ONE], "max_length": 0}, 400, 'field "max_length" must be a whole number of at least 1, not 0'),
    ({"items": [ONE], "max_length": True}, 400, 'field "max_length" must be a whole number of at least 1, not True'),
    ({"items": [ONE], "batch_size": "8"}, 400, 'field "batch_size" must be a whole number of at least 1, not 8'),
    ({"items": [ONE, "x"]}, 400, "items[1] must be an object, not str"),
    ({"items": [ONE, {"problem": "p"}]}, 400, 'items[1]: field "reasoning" is missing'),
    ({"items": [{**ONE, "problem": 3}]}, 400, 'items[0]: field "problem" must be a string, not int'),
    ({"items": [{**ONE, "problem": "\ud800"}]}, 400, 'items[0]: field "problem" holds half of a surrogate pair'),
    ({"items": [{**ONE, "test": "x"}]}, 400, "items[0]: unknown field 'test'; there are problem, reasoning, task_"),
    ({"items": [{**ONE, "tests": ["x"]}]}, 400, 'items[0]: field "tests" must be a string, not list'),
    ({"items": [{**ONE, "task_name": "art"}]}, 400, 'items[0]: field "task_name" must be "math" or "code"'),
    ({"items": [ONE, {**ONE, "reasoning": "7 + 5 = 2 ;" * 60}]}, 400, "items[1]: the reasoning takes 363 tokens"),
    ({"items": [ONE], "max_length": 2}, 400, "items[0]: the reasoning takes"),
    ({"items": [ONE] * 21}, 400, "21 items are too many; at most 20 in one request"),
    (b"x" * 60_001, 413, "the request is larger than 60000 bytes"),
]


def test_what_is_wrong_is_said_and_the_server_goes_on(limited, items, expected):
    async def questions(client: Client, server: Server) -> None:
        for body, status, reason in BAD:
            found = await post(client, body)
            assert found[0] == status and set(found[1]) == {"error"}, (body, found)
            assert found[1]["error"].startswith(reason), (found, reason)
        async with client.post("/score", data=b"not packed", headers={"Content-Encoding": "gzip"}) as response:
            assert response.status == 400
            assert await response.json() == {"error": "the request's body is not what its Content-Encoding says"}
        async with client.get("/nothing") as response:
            assert response.status == 404
            wanted = "no such path /nothing; there are /score, /health and /metrics"
            assert await response.json() == {"error": wanted}
        async with client.get("/score") as response:
            assert (response.status, response.headers["Allow"]) == (405, "POST")
            assert await response.json() == {"error": "GET /score: Method Not Allowed"}
        status, found = await post(client, {"items": wire(items[:2])})
        assert status == 200
        agree(found, expected, 0, 2)

    ask(limited, questions)


def test_too_much_at_a_time_is_refused(limited, items, expected):
    async def questions(client: Client, server: Server) -> None:
        body = {"items": wire(items[:20])}
        answers = await asyncio.gather(*(post(client, body) for _ in range(10)))
        statuses = [status for status, _ in answers]
        assert set(statuses) == {200, 503} and statuses.count(200) >= 2
        for status, found in answers:
            if status == 200:
                agree(found, expected, 0, 20)
            else:
                assert found["error"].endswith("items are waiting; try again later")
        assert (await post(client, body))[0] == 200  # nothing is left behind

    ask(limited, questions)


def test_a_client_that_does_not_send_what_it_said(limited, items):
    async def questions(client: Client, server: Server) -> None:
        reader, writer = await asyncio.open_connection(client.host, client.port)
        writer.write(b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        head = await asyncio.wait_for(reader.readline(), 10)
        assert head.split()[1] == b"408"
        writer.close()
        reader, writer = await asyncio.open_connection(client.host, client.port)
        writer.write(b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        await writer.drain()
        writer.close()  # and one that goes away
        assert (await post(client, {"items": wire(items[:1])}))[0] == 200

    ask(limited, questions)


async def connect(host: str, port: int, items: list[Item]) -> asyncio.StreamWriter:
    """A connection that has sent a whole request."""
    body = json.dumps({"items": wire(items)}).encode()
    _, writer = await asyncio.open_connection(host, port)
    writer.write(b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    return writer


def test_a_client_that_goes_away_is_not_worked_for(limited, items, expected):
    patient = copied(limited, config=dataclasses.replace(limited.config, service=Service(gather_ms=500.0)))

    async def questions(client: Client, server: Server) -> None:
        writer = await connect(client.host, client.port, items[:3])
        while server.worker._waiting != 3:
            await asyncio.sleep(0.001)
        writer.close()
        while server.worker._waiting:
            await asyncio.sleep(0.001)
        agree((await post(client, {"items": wire(items[3:5])}))[1], expected, 3, 2)
        assert (await metrics(client))["tracelift_rm_items_total"] == "2.0"

    ask(patient, questions)


def test_a_reward_model_that_fails_is_not_a_verdict(limited, items, expected, capsys):
    variables, heads = limited._weights
    broken = copied(limited, _weights=(variables, {**heads, "total": heads["total"] * np.nan}))

    async def questions(client: Client, server: Server) -> None:
        status, found = await post(client, {"items": wire(items[:2])})
        assert (status, found) == (500, {"error": "the reward model failed; its server tells why on standard error"})
        broken._weights = limited._weights
        status, found = await post(client, {"items": wire(items[:2])})
        assert status == 200
        agree(found, expected, 0, 2)

    ask(broken, questions)
    assert "its weights give numbers that are not finite" in capsys.readouterr().err


def test_health(limited):
    async def questions(client: Client, server: Server) -> None:
        async with client.get("/health") as response:
            assert response.status == 200
            assert await response.json() == {"status": "ok", "reward_model": limited.fingerprint}
        server.stopping = True
        async with client.get("/health") as response:
            assert response.status == 503
            assert (await response.json())["status"] == "stopping"

    ask(limited, questions)


# --- The command ------------------------------------------------------------------------------------------------------

FLAGS = ("--rm", "--gin_file=experiments/dial/score.gin", "--gin.Scorer.lengths=(112,)")


def serving(*flags: str):
    """A process that serves, and its address."""
    process = start("serve", *FLAGS, "--port=0", *flags)
    assert process.stdout
    for line in process.stdout:
        if line.startswith("serving "):
            return process, line.split()[1]
    raise AssertionError(process.communicate())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.slow
def test_a_stopped_process_finishes_what_it_accepted(items, expected, number):
    """Requests are waiting when the signal comes: all are answered, new ones are not taken, and it leaves with 0."""
    # With a batch this large and this patient, nothing is graded for some seconds.
    process, address = serving("--gin.Service.gather_ms=6000.0", "--gin.Scorer.batch_size=512")
    try:

        async def questions() -> None:
            async with asyncio.timeout(300), aiohttp.ClientSession(address.removesuffix("score")) as session:

                async def waiting(count: int) -> str:
                    wanted, shown = f"tracelift_rm_waiting_items {count}.0", ""
                    while wanted not in shown:
                        await asyncio.sleep(0.01)
                        shown = await (await session.get("/metrics")).text()
                    return shown

                port = int(address.split(":")[2].removesuffix("/score"))
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n")
                assert b" 400 " in await reader.readline()
                writer.close()
                gone = await connect("127.0.0.1", port, items[:3])
                await waiting(3)
                gone.close()
                assert "tracelift_rm_items_total 0.0" in await waiting(0)

                async def one(first: int) -> dict:
                    async with session.post(address, json={"items": wire(items[first : first + 3])}) as response:
                        assert response.status == 200
                        return await response.json()

                asked = [asyncio.create_task(one(3 * n)) for n in range(12)]
                await waiting(36)
                process.send_signal(number)
                for n, found in enumerate(await asyncio.gather(*asked)):
                    agree(found, expected, 3 * n, 3)

        asyncio.run(questions())
        out, errors = process.communicate(timeout=60)
        assert (process.returncode, out) == (0, "stopped\n"), errors
        assert "Traceback" not in errors
        with pytest.raises(urllib.error.URLError):
            urllib.request.urlopen(address.replace("/score", "/health"), timeout=10)
    finally:
        process.kill()
        process.wait()


def test_addresses_that_cannot_be_had():
    outcome = command("serve", *FLAGS, "--port=70000")
    assert (outcome.code, outcome.errors) == (2, "tracelift: --port must be 0 to 65535, got 70000\n")
    outcome = command("serve", *FLAGS, "--host=192.0.2.1", "--port=0")
    assert outcome.code == 2
    assert outcome.errors.startswith("tracelift: --host=192.0.2.1 --port=0: cannot be served (")
    assert len(outcome.errors.splitlines()) == 1
    assert command("serve", *FLAGS[1:]).code == 2  # what is served must be said
