"""Programs run by a server that speaks SandboxFusion's `POST /run_code`, for machines that cannot make boxes."""

import json
import secrets
import threading
from typing import Any

import httpx2
import pydantic
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from tracelift_jax.errors import UserError
from tracelift_jax.tasks.sandbox.bundle import standalone
from tracelift_jax.tasks.sandbox.ends import end_of_check, end_of_process
from tracelift_jax.tasks.sandbox.program import Limits, Program, Ran, Status

RETRIES = 4
BACKOFF_SECONDS = 0.5
WAIT_SECONDS = 60.0
"""What a server may take beyond a program's own time: it queues them too."""


class _Trouble(Exception):
    """No answer, or none about the program."""


class _RunResult(pydantic.BaseModel):
    status: str
    execution_time: float = 0.0
    return_code: int | None = None
    stdout: str = ""
    stderr: str = ""

    @pydantic.field_validator("execution_time", "stdout", "stderr", mode="before")
    @classmethod
    def _nothing(cls, value: object, info: pydantic.ValidationInfo) -> object:
        """Servers write null for what a process did not leave."""
        return value if value is not None else cls.model_fields[str(info.field_name)].default


class _Response(pydantic.BaseModel):
    status: str
    message: str | None = None
    run_result: _RunResult | None = None


class Remote:
    """Runs programs on a server; may be used by many threads at a time.

    Each input and each check is a request of its own. A check runs in the same container as its program, in another
    process (`inside/alone.py`). Open files, processes and the size of the working folder are the server's to limit.
    """

    def __init__(self, url: str, concurrency: int):
        """Asks the server for a first run.

        Args:
            url: of the server, without `/run_code`. concurrency: requests in flight at a time.

        Raises:
            UserError: it does not run it.
        """
        self.url = url.rstrip("/")
        limits = httpx2.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
        self._client, self._slots = httpx2.Client(limits=limits), threading.BoundedSemaphore(concurrency)
        (first,) = self.run(Program("print(input())", inputs=("ready",)), Limits(seconds=10.0))
        if first.status != "ok" or first.stdout.strip() != "ready":
            self.close()
            said = first.error or f"{first.status}, {first.stdout[:100]!r}"
            raise UserError(f"no sandbox: {self.url}/run_code does not run a program: {said}; see SandboxConfig.url")

    def close(self) -> None:
        """Closes its connections."""
        self._client.close()

    def describe(self) -> str:
        """Where programs run."""
        return f"{self.url}/run_code"

    def run(self, program: Program, limits: Limits) -> tuple[Ran, ...]:
        """See `Sandbox.run`."""
        runs = [self._run_input(program.source, text, limits) for text in program.inputs]
        runs += [self._run_check(program.source, check, limits) for check in program.checks]
        return tuple(runs)

    def _run_input(self, source: str, text: str, limits: Limits) -> Ran:
        try:
            result = self._ask(source, text, limits)
        except _Trouble as error:
            return Ran("infrastructure", error=str(error)[:500])
        status, said = _end(result, limits)
        return Ran(status, result.stdout[: limits.output_kb * 1024], said, result.execution_time)

    def _run_check(self, source: str, check: str, limits: Limits) -> Ran:
        mark = secrets.token_hex(16)
        task = json.dumps({"mark": mark, "source": source, "check": check})
        try:
            result = self._ask(standalone(), task, limits)
        except _Trouble as error:
            return Ran("infrastructure", error=str(error)[:500])
        status, said = end_of_check(result.stdout, mark, _end(result, limits))
        return Ran(status, "", said, result.execution_time)

    def _ask(self, code: str, stdin: str, limits: Limits) -> _RunResult:
        """Runs code, asking again after trouble.

        Raises:
            _Trouble: nothing is known of the program.
        """
        body = {
            "code": _clean(code),
            "language": "python",
            "stdin": _clean(stdin),
            "run_timeout": limits.seconds,
            "compile_timeout": limits.seconds,
            "memory_limit_MB": limits.memory_mb,
        }
        again = Retrying(
            stop=stop_after_attempt(RETRIES + 1),
            wait=wait_exponential_jitter(multiplier=BACKOFF_SECONDS, max=30.0, jitter=BACKOFF_SECONDS),
            retry=retry_if_exception_type(_Trouble),
            reraise=True,
        )
        with self._slots:
            return again(self._post, body, limits.seconds + WAIT_SECONDS)

    def _post(self, body: dict[str, Any], timeout: float) -> _RunResult:
        try:
            response = self._client.post(f"{self.url}/run_code", json=body, timeout=timeout)
        except (httpx2.HTTPError, RuntimeError) as error:
            raise _Trouble(f"{type(error).__name__}: {error}") from error
        if response.status_code != 200:
            raise _Trouble(f"{response.status_code} {' '.join(response.text[:200].split())}")
        try:
            answer = _Response.model_validate_json(response.content)
        except pydantic.ValidationError:
            raise _Trouble(f"no answer of SandboxFusion's: {response.text[:100]!r}") from None
        if answer.run_result is None or answer.status == "SandboxError" or answer.run_result.status == "Error":
            raise _Trouble(f"{answer.status}: {' '.join((answer.message or '').split())[:200]}")
        return answer.run_result


def _end(result: _RunResult, limits: Limits) -> tuple[Status, str]:
    code = None if result.status == "TimeLimitExceeded" else result.return_code
    return end_of_process(code, result.stdout, result.stderr, limits)


def _clean(text: str) -> str:
    """Text that JSON in UTF-8 can hold."""
    return text.encode(errors="replace").decode()
