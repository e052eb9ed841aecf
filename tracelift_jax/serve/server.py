"""`tracelift serve --rm`: the reward model over HTTP, in the wire format of METHOD's services.

    POST /score    {"items": [{"problem", "reasoning", "task_name", "task_type", "tests"}, ...], "max_length",
                   "batch_size"}, of which "items" must be there, and of an item "problem" and "reasoning"
                   -> {"scores": [...], "results": [{"score", "total", "rubric"}, ...]}
    GET  /health   what is served, and 503 while the server stops
    GET  /metrics  in Prometheus' text format

Requests that come at about the same time are graded together: handlers put what they read into one queue, and one task
takes from it whatever is there for the device, which has a thread of its own. Whatever is wrong with a request is
answered by a 4xx status and {"error": reason}.
"""

import asyncio
import dataclasses
import json
import logging
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import prometheus_client as prometheus
from aiohttp import web

from tracelift_jax.checked import require
from tracelift_jax.errors import UserError
from tracelift_jax.serve.scorer import ITEM_FIELDS, Item, LoadedScorer, Read, Scorer, load_scorer, read_item
from tracelift_jax.train.solution import Graded

FIELDS = ("items", "max_length", "batch_size")
"""Of a request. `batch_size` is what the reference's server takes at a time; ours goes by its experiment."""


class Metrics:
    """What the server counts, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = prometheus.CollectorRegistry()
        shared = {"namespace": "tracelift_rm", "registry": self.registry}
        self.requests = prometheus.Counter("requests", "Answers by path and status", ["path", "status"], **shared)
        self.items = prometheus.Counter("items", "Graded items", **shared)
        self.waiting = prometheus.Gauge("waiting_items", "Items accepted and not answered", **shared)
        self.seconds = prometheus.Histogram("score_seconds", "Time from request to answer of POST /score", **shared)
        sizes = [2**n for n in range(14)]
        self.gathered = prometheus.Histogram("gathered_items", "Items graded together", buckets=sizes, **shared)


@dataclasses.dataclass(frozen=True)
class Request:
    """A request as it should be: the items, and the most tokens that each may take."""

    items: tuple[Item, ...]
    max_length: int | None


def read_request(body: bytes, config: Scorer) -> Request:
    """The items of a request.

    Raises:
        UserError: it is not JSON, or its fields are not what they should be.
    """
    try:
        data = json.loads(body.decode())
    except UnicodeDecodeError:
        raise UserError("the request is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise UserError(f"the request is not JSON ({error.msg}, line {error.lineno}, column {error.colno})") from None
    except (ValueError, RecursionError) as error:  # numbers of over 4300 digits; thousands of nested brackets
        raise UserError(f"the request is JSON that cannot be read ({error})") from None
    require(isinstance(data, dict), f"the request must be a JSON object, not {type(data).__name__}")
    _check_names(data, FIELDS, "the request")
    for name in ("max_length", "batch_size"):
        value = data.get(name)
        whole = value is None or (type(value) is int and value >= 1)
        require(whole, f'field "{name}" must be a whole number of at least 1, not {str(value)[:40]}')
    require("items" in data, 'field "items" is missing')
    items = data["items"]
    require(isinstance(items, list), f'field "items" must be a list, not {type(items).__name__}')
    most = config.service.max_items
    require(len(items) <= most, f"{len(items)} items are too many; at most {most} in one request")
    return Request(tuple(_item(number, item, config) for number, item in enumerate(items)), data.get("max_length"))


def _item(number: int, item: Any, config: Scorer) -> Item:
    require(isinstance(item, dict), f"items[{number}] must be an object, not {type(item).__name__}")
    _check_names(item, ITEM_FIELDS, f"items[{number}]")
    try:
        return read_item(item, config)
    except UserError as error:
        raise UserError(f"items[{number}]: {error}") from None


def _check_names(data: dict[str, Any], known: Sequence[str], where: str) -> None:
    for name in data:
        require(name in known, f"{where}: unknown field {name[:40]!r}; there are {', '.join(known)}")


class Busy(Exception):
    """More is waiting than the server takes on."""


class Failed(Exception):
    """The reward model could not grade, through no fault of the request."""


@dataclasses.dataclass(frozen=True)
class Job:
    """Items of one request, and where their grades go."""

    items: Sequence[Read]
    done: asyncio.Future[list[Graded]]


class Worker:
    """The one user of the device: a task that grades what is in the queue, as much at a time as there is."""

    def __init__(self, scorer: LoadedScorer, metrics: Metrics):
        self._scorer, self._metrics, self._limits = scorer, metrics, scorer.config.service
        self._queue: asyncio.Queue[Job] = asyncio.Queue()
        self._waiting = 0
        # Reading is work for the tokenizer, on other cores while the device grades; each has one thread.
        self._reading, self._grading = ThreadPoolExecutor(1, "read"), ThreadPoolExecutor(1, "grade")

    async def score(self, request: Request) -> list[Graded]:
        """Grades the items of a request.

        Raises:
            Busy: too much is waiting.
            UserError: an item cannot be read.
        """
        if self._waiting + len(request.items) > self._limits.max_waiting:
            raise Busy(f"{self._waiting} items are waiting; try again later")
        loop = asyncio.get_running_loop()
        self._count(len(request.items))
        try:
            read = await loop.run_in_executor(self._reading, self._read, request)
            job = Job(read, loop.create_future())
            self._queue.put_nowait(job)
            return await job.done
        finally:
            self._count(-len(request.items))

    async def run(self) -> None:
        """Grades what comes, until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            jobs = [job for job in await self._gather() if not job.done.done()]  # it is when the client went away
            if not jobs:
                continue
            items = [item for job in jobs for item in job.items]
            try:
                graded = await loop.run_in_executor(self._grading, self._scorer.grade, items)
            except Exception as error:
                # One fault of the device must not be the server's end; every request in it is answered with 500.
                for job in jobs:
                    if not job.done.done():
                        job.done.set_exception(Failed(f"{type(error).__name__}: {error}"))
                continue
            self._metrics.gathered.observe(len(items))
            self._metrics.items.inc(len(items))
            ready = iter(graded)
            for job in jobs:
                own = [next(ready) for _ in job.items]
                if not job.done.done():
                    job.done.set_result(own)

    async def _gather(self) -> list[Job]:
        """The next job and what else there is, up to a batch; the device waits a little where there is less."""
        jobs = [await self._queue.get()]
        end = asyncio.get_running_loop().time() + self._limits.gather_ms / 1000
        while sum(len(job.items) for job in jobs) < self._scorer.config.batch_size:
            try:
                jobs.append(self._queue.get_nowait())
            except asyncio.QueueEmpty:
                try:
                    async with asyncio.timeout_at(end):
                        jobs.append(await self._queue.get())
                except TimeoutError:
                    break
        return jobs

    def _read(self, request: Request) -> list[Read]:
        read = []
        for number, item in enumerate(request.items):
            try:
                read.append(self._scorer.read(item, request.max_length))
            except UserError as error:
                raise UserError(f"items[{number}]: {error}") from None
        return read

    def _count(self, items: int) -> None:
        self._waiting += items
        self._metrics.waiting.set(self._waiting)


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """The paths, and what becomes of errors."""

    def __init__(self, scorer: LoadedScorer):
        self.metrics = Metrics()
        self.worker = Worker(scorer, self.metrics)
        self.stopping = False
        self._scorer, self._limits = scorer, scorer.config.service

    def app(self) -> web.Application:
        """The application."""
        app = web.Application(middlewares=[self._answer], client_max_size=self._limits.max_bytes)
        app.router.add_post("/score", self._score)
        app.router.add_get("/health", self._health)
        app.router.add_get("/metrics", self._show_metrics)
        return app

    @web.middleware
    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Turns whatever goes wrong into a status and a reason, and counts."""
        began = time.monotonic()
        try:
            response = await handler(request)
        except web.HTTPRequestEntityTooLarge:
            response = _error(413, f"the request is larger than {self._limits.max_bytes} bytes")
        except web.RequestPayloadError:
            response = _error(400, "the request's body is not what its Content-Encoding says")
            response.force_close()  # where the next request begins is not known
        except web.HTTPNotFound:
            response = _error(404, f"no such path {request.path[:80]}; there are /score, /health and /metrics")
        except web.HTTPException as error:
            response = _error(error.status, f"{request.method} {request.path[:80]}: {error.reason}", error.headers)
        except UserError as error:
            response = _error(400, str(error))
        except TimeoutError:
            response = _error(408, f"the request was not sent within {self._limits.read_seconds:g} seconds")
        except Busy as error:
            response = _error(503, str(error), {"Retry-After": "1"})
        except Exception as error:
            print(f"{request.method} {request.path[:80]}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            response = _error(500, "the reward model failed; its server tells why on standard error")
        known = request.match_info.route.resource
        path = known.canonical if known else "other"
        self.metrics.requests.labels(path, str(response.status)).inc()
        if path == "/score":
            self.metrics.seconds.observe(time.monotonic() - began)
        return response

    async def _score(self, request: web.Request) -> web.Response:
        async with asyncio.timeout(self._limits.read_seconds):
            body = await request.read()
        graded = await self.worker.score(read_request(body, self._scorer.config))
        results = [{"score": one.score, "total": one.total, "rubric": one.rubric} for one in graded]
        return web.json_response({"scores": [one.score for one in graded], "results": results})

    async def _health(self, _: web.Request) -> web.Response:
        status = {"status": "stopping" if self.stopping else "ok", "reward_model": self._scorer.fingerprint}
        return web.json_response(status, status=503 if self.stopping else 200)

    async def _show_metrics(self, _: web.Request) -> web.Response:
        text = prometheus.generate_latest(self.metrics.registry)
        return web.Response(body=text, headers={"Content-Type": prometheus.CONTENT_TYPE_LATEST})


def _error(status: int, reason: str, headers: Any = None) -> web.Response:
    kept = {name: value for name, value in (headers or {}).items() if name in ("Allow", "Retry-After")}
    return web.json_response({"error": reason}, status=status, headers=kept)


async def serve(scorer: LoadedScorer, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serves until SIGTERM or SIGINT, then finishes what was accepted; a second signal has its usual effect.

    Args:
        port: 0 takes a free one. ready: told the address, once requests are taken.

    Raises:
        UserError: the address cannot be had.
    """
    server = Server(scorer)
    limits = scorer.config.service
    # What goes wrong with a request is answered and counted (`Server._answer`); no client may fill the log.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
    # A client that goes away is not worked for: those that try again would queue behind themselves.
    runner = web.AppRunner(
        server.app(), access_log=None, handler_cancellation=True, shutdown_timeout=limits.drain_seconds
    )
    await runner.setup()
    loop, stop = asyncio.get_running_loop(), asyncio.Event()

    def asked() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
        server.stopping = True
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, asked)
    work = asyncio.create_task(server.worker.run())
    try:
        await web.TCPSite(runner, host, port).start()
        shown = f"[{host}]" if ":" in host else host
        ready(f"http://{shown}:{runner.addresses[0][1]}")
        await stop.wait()
    except OSError as error:
        raise UserError(f"--host={host} --port={port}: cannot be served ({error.strerror or error})") from error
    finally:
        await runner.cleanup()
        work.cancel()


def run_serve(config: Scorer, host: str, port: int) -> None:
    """Loads a reward model and serves it.

    Raises:
        UserError: it cannot be loaded, or the address cannot be had.
    """
    require(0 <= port < 2**16, f"--port must be 0 to {2**16 - 1}, got {port}")
    print(f"loading {config.reward_model.path}", flush=True)
    scorer = load_scorer(config)
    scorer.warm_up()
    asyncio.run(serve(scorer, host, port, lambda address: print(f"serving {address}/score", flush=True)))
    print("stopped", flush=True)
