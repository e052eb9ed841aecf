"""A server that speaks SandboxFusion's format: real HTTP, real runs behind it, and every kind of trouble."""

import dataclasses
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from run_code import DROP, RunCode, run_code

from tracelift_jax.errors import UserError
from tracelift_jax.tasks.sandbox import Limits, Program, Remote, SandboxConfig, open_sandbox, remote


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[RunCode]:
    monkeypatch.setattr(remote, "BACKOFF_SECONDS", 0.001)
    with run_code() as service:
        yield service


@pytest.fixture
def sandbox(service: RunCode) -> Iterator[Remote]:
    sandbox = Remote(service.url, 2)
    service.asked.clear()
    yield sandbox
    sandbox.close()


INPUTS = {
    "ok": ("print(int(input()) + 1)", "ok", "2\n", ""),
    "raised": ("print(1)\n1 / 0", "raised", "1\n", "ZeroDivisionError: division by zero"),
    "uncompilable": ("def f(:", "uncompilable", "", "SyntaxError: invalid syntax"),
    "timeout": ("while True: pass", "timeout", "", "ran longer than 0.6 s"),
    "memory": ("raise MemoryError", "memory", "", "MemoryError"),
    "output": ("print('x' * 3000)", "output", "x" * 2048, "printed more than it may"),
}
FEW = Limits(seconds=0.6, output_kb=2, memory_mb=77)


@pytest.mark.parametrize("name", INPUTS)
def test_ends_of_programs(service: RunCode, sandbox: Remote, name: str) -> None:
    source, status, stdout, error = INPUTS[name]
    limits = FEW if status == "timeout" else dataclasses.replace(FEW, seconds=60.0)
    (ran,) = sandbox.run(Program(source, inputs=("1",)), limits)
    assert (ran.status, ran.stdout, ran.error) == (status, stdout, error)
    (asked,) = service.asked
    assert asked == {
        "code": source,
        "language": "python",
        "stdin": "1",
        "run_timeout": limits.seconds,
        "compile_timeout": limits.seconds,
        "memory_limit_MB": 77,
    }


def test_checks_run_there_too_and_what_is_expected_is_not_in_the_code(service: RunCode, sandbox: Remote) -> None:
    source = "def f(x):\n    print('ok')\n    return x + 1"
    checks = ("assert f(1) == 2", "assert f(1) == 31337", "assert f('') == 2", "assert g() == 2")
    runs = sandbox.run(Program(source, checks=checks), Limits(seconds=60.0))
    assert [ran.status for ran in runs] == ["ok", "failed", "raised", "failed"]
    assert all("31337" not in asked["code"] and source not in asked["code"] for asked in service.asked)


@pytest.mark.parametrize(
    "source", ["import os; os._exit(0)", "import os\ndef f(x):\n    os.kill(os.getppid(), 9)", "print('ok')", "def f(:"]
)
def test_a_program_cannot_pass_a_check_by_ending_it(sandbox: Remote, source: str) -> None:
    (ran,) = sandbox.run(Program(source, checks=("assert f(1) == 2",)), Limits(seconds=60.0))
    assert ran.status in {"raised", "uncompilable", "failed"}


TROUBLE = {
    "a server that is busy": (503, "sandbox queue saturated"),
    "no gateway": (502, "<html>Bad Gateway</html>"),
    "too many": (429, "slow down"),
    "broken off": (DROP, ""),
    "no JSON": (200, "<html>"),
    "another format": (200, '{"ok": true}'),
    "its own error": (200, json.dumps({"status": "SandboxError", "message": "no pod", "run_result": None})),
    "no result": (200, json.dumps({"status": "Success", "message": "", "run_result": None})),
    "an error in the run": (200, json.dumps({"status": "Failed", "run_result": {"status": "Error", "stderr": "x"}})),
}


@pytest.mark.parametrize("name", TROUBLE)
def test_trouble_passes(service: RunCode, sandbox: Remote, name: str) -> None:
    service.meets = lambda before, body: TROUBLE[name] if before < 2 else None
    (ran,) = sandbox.run(Program("print(1)", inputs=("",)), Limits(seconds=60.0))
    assert (ran.status, ran.stdout, len(service.asked)) == ("ok", "1\n", 3)


@pytest.mark.parametrize("name", TROUBLE)
def test_trouble_that_stays_says_nothing_of_the_program(service: RunCode, sandbox: Remote, name: str) -> None:
    service.meets = lambda before, body: TROUBLE[name]
    runs = sandbox.run(Program("print(1)", ("",), ("assert 1",)), Limits(seconds=60.0))
    assert [ran.status for ran in runs] == ["infrastructure"] * 2
    assert len(service.asked) == 2 * (remote.RETRIES + 1)
    assert all(ran.error for ran in runs)


def test_requests_in_flight_are_bounded(service: RunCode, sandbox: Remote) -> None:
    program = Program("import time; time.sleep(0.1)", inputs=("",))
    threads = [threading.Thread(target=sandbox.run, args=(program, Limits(seconds=60.0))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert service.together == 2


def test_text_that_is_no_unicode(sandbox: Remote) -> None:
    (ran,) = sandbox.run(Program("print(input())", inputs=("\ud800",)), Limits(seconds=60.0))
    assert (ran.status, ran.stdout) == ("ok", "?\n")


@pytest.mark.parametrize("path", ["/wrong", ""])
def test_a_server_that_runs_nothing_is_told_at_the_start(service: RunCode, path: str) -> None:
    if not path:
        service.meets = lambda before, body: (500, "out of order")
    with pytest.raises(UserError, match=r"does not run a program: .*; see SandboxConfig.url") as caught:
        open_sandbox(SandboxConfig(backend="remote", url=service.url + path, workers=1))
    assert "\n" not in str(caught.value)


def test_no_server_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "BACKOFF_SECONDS", 0.001)
    with pytest.raises(
        UserError, match=r"no sandbox: http://127.0.0.1:9/run_code does not run a program: ConnectError"
    ):
        open_sandbox(SandboxConfig(backend="remote", url="http://127.0.0.1:9/"))


def test_a_server_that_does_not_pass_on_input(service: RunCode) -> None:
    run: Callable[..., dict[str, Any]] = service.runs
    service.runs = lambda body: run({**body, "stdin": ""})
    with pytest.raises(UserError, match="does not run a program: EOFError"):
        Remote(service.url, 1)
