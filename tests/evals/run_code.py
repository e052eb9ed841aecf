"""A real HTTP server that runs programs in SandboxFusion's format, until it is told to refuse."""

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tracelift_jax.config import Limits
from tracelift_jax.tasks.sandbox import Program, Unprotected


class RunCode:
    """The server: for programs that the tests wrote themselves.

    Attributes:
        url: where it is. asked: the programs, in the order they came. serves: after so many it refuses; None: none.
    """

    def __init__(self, url: str):
        self.url = url
        self.asked: list[str] = []
        self.serves: int | None = None
        self._lock = threading.Lock()

    def answer(self, body: dict) -> tuple[int, bytes]:
        with self._lock:
            self.asked.append(body["code"])
            refused = self.serves is not None and len(self.asked) > self.serves
        if refused:
            return 503, b"no room"
        (ran,) = Unprotected().run(Program(body["code"], inputs=(body["stdin"],)), Limits(seconds=20.0))
        code, said = int(ran.status != "ok"), f"Traceback (most recent call last):\n{ran.error}\n" if ran.error else ""
        result = {"status": "Finished", "return_code": code, "stdout": ran.stdout, "stderr": said}
        return 200, json.dumps({"status": "Failed" if code else "Success", "run_result": result}).encode()


@contextlib.contextmanager
def run_code() -> Iterator[RunCode]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            status, data = served.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        served = RunCode(f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield served
        finally:
            server.shutdown()
            thread.join()
