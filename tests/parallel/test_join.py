"""What the environment says of other processes, and the metadata server."""

import http.server
import threading

import jax
import pytest
from tiny import Outcome, command

from tracelift_jax.errors import UserError
from tracelift_jax.parallel import join
from tracelift_jax.train import stopping

VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID", "SLURM_STEP_NUM_TASKS")
ALL_THREE = "several processes need JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID"


@pytest.fixture
def environment(monkeypatch):
    """Sets variables; none of ours is there before."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)

    def put(**values: str) -> None:
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return put


def test_without_variables_there_is_one_process(environment):
    join.join()
    assert (jax.process_count(), jax.distributed.is_initialized()) == (1, False)


@pytest.mark.parametrize("more", [{}, {"SLURM_STEP_NUM_TASKS": "4"}, {"JAX_COORDINATOR_ADDRESS": "nowhere"}])
def test_one_process_is_one_process_whatever_else_is_said(environment, more):
    environment(JAX_NUM_PROCESSES="1", **more)
    join.join()
    assert not jax.distributed.is_initialized()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"JAX_NUM_PROCESSES": "2"},
            f"JAX_COORDINATOR_ADDRESS is not set; {ALL_THREE}",
        ),
        (
            {"JAX_NUM_PROCESSES": "2", "JAX_COORDINATOR_ADDRESS": "a:1"},
            f"JAX_PROCESS_ID is not set; {ALL_THREE}",
        ),
        (
            {"JAX_NUM_PROCESSES": "two", "JAX_COORDINATOR_ADDRESS": "a:1", "JAX_PROCESS_ID": "0"},
            "JAX_NUM_PROCESSES must be a whole number, got 'two'",
        ),
        (
            {"JAX_NUM_PROCESSES": "2", "JAX_COORDINATOR_ADDRESS": "a:1", "JAX_PROCESS_ID": "2"},
            "JAX_PROCESS_ID must be below JAX_NUM_PROCESSES = 2, got 2",
        ),
        (
            {"JAX_NUM_PROCESSES": "2", "JAX_COORDINATOR_ADDRESS": "a", "JAX_PROCESS_ID": "1"},
            "JAX_COORDINATOR_ADDRESS must be host:port, got 'a'",
        ),
    ],
)
def test_variables_that_do_not_go_together_are_one_line(environment, values, message):
    environment(**values)
    with pytest.raises(UserError) as refused:
        join.join()
    assert str(refused.value) == message


# --------------------------------------------------------------------------------------------------- metadata server


class Metadata(http.server.BaseHTTPRequestHandler):
    """Answers as the cloud's server does, to whoever shows the header it asks for."""

    pages: dict[str, str]

    def do_GET(self):
        page = self.pages.get(self.path.removeprefix("/computeMetadata/v1/"))
        there = page is not None and self.headers["Metadata-Flavor"] == "Google"
        self.send_response(200 if there else 404)
        self.end_headers()
        self.wfile.write((page or "").encode() if there else b"")

    def log_message(self, *_):
        pass


@pytest.fixture
def pages(monkeypatch):
    """A metadata server's pages, empty at first."""
    Metadata.pages = {}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("GCE_METADATA_HOST", f"127.0.0.1:{server.server_port}")
    yield Metadata.pages
    server.shutdown()
    server.server_close()


def test_a_page_of_the_metadata_server(pages):
    pages["instance/id"] = "123"
    assert join.metadata("instance/id") == "123"
    assert join.metadata("instance/nothing") is None


def test_without_a_metadata_server_nothing_is_known(monkeypatch):
    monkeypatch.setenv("GCE_METADATA_HOST", "127.0.0.1:9")
    assert join.metadata("instance/id") is None


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({}, ""),
        ({"instance/maintenance-event": "NONE\n", "instance/preempted": "FALSE"}, ""),
        ({"instance/maintenance-event": "TERMINATE_ON_HOST_MAINTENANCE"}, "TERMINATE_ON_HOST_MAINTENANCE"),
        ({"instance/maintenance-event": "NONE", "instance/preempted": "TRUE"}, "preempted"),
    ],
)
def test_notices(pages, told, said):
    pages |= told
    assert stopping.notice() == said


def test_a_notice_stops_a_run(pages, monkeypatch):
    monkeypatch.setattr(stopping, "_NOTICE_SECONDS", 0.01)
    said, heard = [], threading.Event()

    def say(line: str) -> None:
        said.append(line)
        heard.set()

    with stopping.Stopper(say) as stopper:
        assert not stopper.leaving
        pages["instance/preempted"] = "TRUE"
        assert heard.wait(20)
        assert stopper.leaving
    assert said == ["the metadata server says preempted: stopping after this step"]


# ------------------------------------------------------------------------------------------------------- the commands


@pytest.mark.parametrize("told", [{"JAX_NUM_PROCESSES": "2"}, {"SLURM_STEP_NUM_TASKS": "2"}])
def test_what_one_process_does_is_refused_in_several(environment, told):
    environment(**told)
    outcome = command("eval", "--run_dir=runs/none")
    said = "tracelift: tracelift eval: one process does this; JAX_NUM_PROCESSES=1 runs this process by itself\n"
    assert outcome == Outcome(2, said)
    environment(JAX_NUM_PROCESSES="1")
    assert "tracelift: runs/none: holds no run" in command("eval", "--run_dir=runs/none").errors
