"""A real HTTP server that runs programs in SandboxFusion's format, or does what it is told instead."""

import contextlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tracelift_jax.config import Limits
from tracelift_jax.tasks.sandbox import Program, Ran, Unprotected

PROGRAM = re.compile(r"\s*print\(\((\d) ([-+*]) (\d)\) % 10\)\s*")
"""A program of the dial."""
DROP = 0
"""The status of a request whose connection is broken."""


def run(body: dict[str, Any]) -> dict[str, Any]:
    """Runs a program that the tests wrote themselves."""
    assert body["language"] == "python"
    limits = Limits(seconds=body["run_timeout"], output_kb=1 << 20)
    (ran,) = Unprotected().run(Program(body["code"], inputs=(body["stdin"],)), limits)
    return result(ran)


def result(ran: Ran) -> dict[str, Any]:
    """How SandboxFusion tells of a run."""
    errors = {"uncompilable": f'  File "x.py", line 1\n{ran.error}\n', "ok": ""}
    late = ran.status == "timeout"
    return {
        "status": "Success" if ran.status == "ok" else "Failed",
        "message": "",
        "compile_result": None,
        "run_result": {
            "status": "TimeLimitExceeded" if late else "Finished",
            "execution_time": ran.seconds,
            "return_code": None if late else int(ran.status != "ok"),
            "stdout": ran.stdout,
            "stderr": errors.get(ran.status, f"Traceback (most recent call last):\n{ran.error}\n"),
        },
        "executor_pod_name": None,
        "files": {},
    }


def printed(program: str) -> int | None:
    """What a program of the dial prints, without running it; None where it is something else."""
    found = PROGRAM.fullmatch(program)
    if not found:
        return None
    a, b = int(found[1]), int(found[3])
    return {"+": a + b, "-": a - b, "*": a * b}[found[2]] % 10


def run_of_the_dial(body: dict[str, Any]) -> dict[str, Any]:
    """What a server says of a program of the dial, without running it."""
    program = body["code"]
    if program == "print(input())":
        return result(Ran("ok", body["stdin"]))
    value = printed(program)
    return result(Ran("uncompilable", error="SyntaxError") if value is None else Ran("ok", f"{value}\n"))


class RunCode:
    """The server.

    Attributes:
        url: where it is. asked: the bodies of all requests, in the order they came. together: most at a time.
        meets: (how many came before, the body) to a status and a text; or None: it is run.
        runs: how.
    """

    def __init__(self, url: str):
        self.url = url
        self.asked: list[dict[str, Any]] = []
        self.together = self._now = 0
        self.meets: Callable[[int, dict[str, Any]], tuple[int, str] | None] = lambda before, body: None
        self.runs: Callable[[dict[str, Any]], dict[str, Any]] = run
        self._lock = threading.Lock()

    def answer(self, body: dict[str, Any]) -> tuple[int, str]:
        with self._lock:
            met = self.meets(len(self.asked), body)
            self.asked.append(body)
            self._now += 1
            self.together = max(self.together, self._now)
        try:
            return met or (200, json.dumps(self.runs(body)))
        finally:
            with self._lock:
                self._now -= 1


@contextlib.contextmanager
def run_code() -> Iterator[RunCode]:
    """A server on a port of its own."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, text = served.answer(body) if self.path == "/run_code" else (404, "not here")
            if status == DROP:
                self.close_connection = True
                self.connection.close()
                return
            data = text.encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        served = RunCode(f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield served
        finally:
            server.shutdown()
            thread.join()
