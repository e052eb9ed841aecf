"""Many programs at a time: in their order, none touched by another, and an end that leaves no process."""

import contextlib
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sandbox_left import HELD, PATIENT, boxes_with, descendants, is_running, let_go, until

from tracelift_jax.tasks.sandbox import Bubblewrap, Limits, Pool, Program

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def own_boxes(boxes: Bubblewrap) -> Bubblewrap:
    return Bubblewrap()


@pytest.fixture
def pool(own_boxes: Bubblewrap) -> Iterator[Pool]:
    with Pool(own_boxes, 2) as pool:
        yield pool


def test_results_are_in_the_order_of_the_programs(pool: Pool) -> None:
    programs = [
        Program(f"import time; time.sleep({0.1 if i == 0 else 0}); print({i})", ("",), (f"assert {i} >= 0",))
        for i in range(12)
    ]
    assert [runs[0].stdout for runs in pool.run(programs, PATIENT)] == [f"{i}\n" for i in range(12)]


def test_submitting_does_not_wait_and_as_many_run_at_a_time_as_there_are_workers(
    pool: Pool, own_boxes: Bubblewrap
) -> None:
    """They wait for each other here: two programs that are held, and a third that has not begun."""
    futures = pool.submit([Program(HELD, inputs=("",))] * 3, PATIENT)
    assert until(lambda: len(boxes_with(own_boxes, "here")) == 2)
    assert not any(future.done() for future in futures)
    assert [future.running() for future in futures] == [True, True, False]
    held = boxes_with(own_boxes, "here")
    for box in held:
        let_go(box)
    assert [future.result()[0].status for future in futures[:2]] == ["ok", "ok"]
    assert until(lambda: len(boxes_with(own_boxes, "here")) == 1)
    let_go(boxes_with(own_boxes, "here")[0])
    assert futures[2].result()[0].status == "ok"


@pytest.mark.parametrize("whom", ["program", "everything"])
def test_a_scheduler_that_stops_the_job_costs_no_program_its_verdict(
    pool: Pool, own_boxes: Bubblewrap, whom: str
) -> None:
    """It sends a SIGTERM to every process of the job, whose step goes on to its end."""
    (future,) = pool.submit([Program(HELD, inputs=("",))], PATIENT)
    assert until(lambda: len(boxes_with(own_boxes, "here")) == 1)
    (first,) = boxes_with(own_boxes, "here")
    for pid in sorted(descendants(os.getpid()), reverse=True):
        with contextlib.suppress(ProcessLookupError):  # one may end because another has
            if whom == "everything" or not descendants(pid):
                os.kill(pid, signal.SIGTERM)
    assert until(lambda: [box for box in boxes_with(own_boxes, "here") if box is not first] != [])
    (second,) = (box for box in boxes_with(own_boxes, "here") if box is not first)
    let_go(second)
    assert future.result()[0].status == "ok"


def test_a_program_that_sends_sigterm_to_itself_has_failed(boxes: Bubblewrap) -> None:
    source = "import os, sys\nprint('bye', file=sys.stderr)\nsys.stderr.flush()\nos.kill(os.getpid(), 15)"
    (ran,) = boxes.run(Program(source, inputs=("",)), PATIENT)
    assert (ran.status, ran.error) == ("raised", "killed by SIGTERM")


def test_good_and_bad_programs_side_by_side(pool: Pool) -> None:
    bad = Program("import os\nos.fork()\nwhile True: os.fork()", inputs=("",))
    good = Program("def f(): return 2\nif __name__ == '__main__': print(input())", ("x",), ("assert f() == 2",))
    pairs = [(pool.submit([bad], Limits(seconds=0.5)), pool.submit([good], PATIENT)) for _ in range(3)]
    for (bad_future,), (good_future,) in pairs:
        assert bad_future.result()[0].status in {"timeout", "raised", "memory"}
        assert [ran.status for ran in good_future.result()] == ["ok", "ok"]


def test_checks_find_their_box_again_after_its_thread_has_gone(boxes: Bubblewrap) -> None:
    program = Program("def f(): return 2", checks=("assert f() == 2",))
    found: list[str] = []
    for _ in range(3):
        thread = threading.Thread(target=lambda: found.append(boxes.run(program, PATIENT)[0].status))
        thread.start()
        thread.join()
    assert found == ["ok"] * 3


def test_closing_ends_what_runs_and_cancels_what_waits(boxes: Bubblewrap) -> None:
    before = descendants(os.getpid())
    sandbox = Bubblewrap()
    pool = Pool(sandbox, 2)
    futures = pool.submit([Program(HELD, inputs=("",))] * 4, Limits(seconds=600.0))
    assert until(lambda: len(boxes_with(sandbox, "here")) == 2)
    pool.close()
    assert [future.cancelled() for future in futures] == [False, False, True, True]
    assert [future.result()[0].status for future in futures[:2]] == ["infrastructure"] * 2
    assert descendants(os.getpid()) == before
    with pytest.raises(RuntimeError, match="closed"):
        pool.submit([], Limits())


def test_a_pool_that_nobody_refers_to_is_closed(boxes: Bubblewrap) -> None:
    """As in a notebook, where an experiment is loaded again and again."""
    before, threads = descendants(os.getpid()), threading.active_count()
    pool = Pool(Bubblewrap(), 2)
    assert pool.run([Program("def f(): return 2", checks=("assert f() == 2",))], PATIENT)[0][0].status == "ok"
    assert descendants(os.getpid()) > before and threading.active_count() == threads + 2
    del pool
    gc.collect()
    assert descendants(os.getpid()) == before and threading.active_count() == threads


SCRIPT = """
    from tracelift_jax.tasks.sandbox import Limits, Program, SandboxConfig, open_pool

    with open_pool(SandboxConfig(workers=2)) as pool:
        fine = Program("def f(): return 2", checks=("assert f() == 2",))
        assert pool.run([fine], Limits(seconds=60.0))[0][0].status == "ok"
        hang = Program("import os, time\\nos.fork()\\nos.fork()\\ntime.sleep(600)", inputs=("",))
        futures = pool.submit([hang] * 5, Limits(seconds=600.0))
        print("running", flush=True)
        futures[0].result()
"""


@pytest.mark.parametrize("how", ["Ctrl-C", "SIGTERM", "SIGKILL"])
def test_a_trainer_that_ends_leaves_no_process(boxes: Bubblewrap, how: str) -> None:
    """Also one that is killed and has no time to do anything about it."""
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, text=True, process_group=0
    ) as trainer:
        assert trainer.stdout is not None and trainer.stdout.readline() == "running\n"
        # Bubblewrap, process 1 and the four of a program in each of two boxes; two more in the box that checked.
        assert until(lambda: len(descendants(trainer.pid)) == 14)
        left = descendants(trainer.pid)
        if how == "Ctrl-C":
            os.killpg(trainer.pid, signal.SIGINT)
        else:
            trainer.send_signal({"SIGTERM": signal.SIGTERM, "SIGKILL": signal.SIGKILL}[how])
        trainer.communicate(timeout=60)
    assert trainer.returncode != 0
    assert until(lambda: not any(is_running(pid) for pid in left)), [pid for pid in left if is_running(pid)]
