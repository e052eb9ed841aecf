"""Many processes on this machine: their environment, signals to all of them, and the exit code of the worst."""

import re
import signal
import socket

import pytest
from launchers import LINES, ROOT, WORDS, ended


def test_each_process_knows_its_place(stand_ins):
    done = stand_ins.launch("local_processes", "3", "--devices=4", "--installed", "--", *WORDS, LINES)
    assert (done.code, done.err) == (0, "")
    calls = sorted(stand_ins.calls("tracelift"), key=lambda call: call["key"])
    assert [call["argv"] for call in calls] == [[*WORDS, LINES]] * 3
    address = calls[0]["environment"]["JAX_COORDINATOR_ADDRESS"]
    assert [call["environment"] for call in calls] == [
        {
            "JAX_PLATFORMS": "cpu",
            "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
            "JAX_COORDINATOR_ADDRESS": address,
            "JAX_NUM_PROCESSES": "3",
            "JAX_PROCESS_ID": str(i),
        }
        for i in range(3)
    ]
    host, port = address.split(":")
    assert host == "127.0.0.1"
    with socket.socket() as listener:  # nobody else's
        listener.bind((host, int(port)))


def test_lines_begin_with_the_number_of_their_process(stand_ins):
    for i in range(2):
        stand_ins.plan(f"tracelift.{i}", {"out": f"first of {i}\nlast of {i}"})  # without a line break at the end
    done = stand_ins.launch("local_processes", "2", "--installed", "--", "train")
    assert sorted(done.out.splitlines()) == ["[0] first of 0", "[0] last of 0", "[1] first of 1", "[1] last of 1"]


@pytest.mark.parametrize(
    ("codes", "worst"),
    [((0, 0, 0), 0), ((0, 75, 0), 75), ((75, 75, 75), 75), ((75, 3, 0), 3), ((0, 0, 2), 2)],
)
def test_the_exit_code_is_the_worst(stand_ins, codes, worst):
    for i, code in enumerate(codes):
        stand_ins.plan(f"tracelift.{i}", {"code": code})
    done = stand_ins.launch("local_processes", "3", "--installed", "--", "train")
    assert done.code == worst
    assert ("failed with exit code" in done.err) == (worst not in (0, 75))
    assert len(stand_ins.calls("tracelift")) == 3


def test_the_first_failure_decides_and_ends_the_others(stand_ins):
    stand_ins.plan("tracelift.0", {"hold": 0.1, "code": 75})
    stand_ins.plan("tracelift.1", {"code": 3})
    stand_ins.plan("tracelift.2", {"hold": 0.1, "code": 4})  # as a consequence
    done = stand_ins.launch("local_processes", "3", "--grace=1", "--installed", "--", "train")
    assert (done.code, done.err) == (3, "local_processes.sh: process 1 failed with exit code 3\n")
    assert sorted(stand_ins.signals()) == [["tracelift.0", signal.SIGTERM], ["tracelift.2", signal.SIGTERM]]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_every_process_once(stand_ins, number):
    stand_ins.plan("tracelift.0", {"hold": 0.1, "code": 75})
    stand_ins.plan("tracelift.1", {"hold": 0.6, "code": 75})
    process = stand_ins.start("local_processes", "2", "--installed", "--", "train")
    stand_ins.wait_for_calls("tracelift", 2)
    process.send_signal(number)
    assert ended(process).code == 75
    assert sorted(stand_ins.signals()) == [["tracelift.0", number], ["tracelift.1", number]]


def test_a_second_signal_ends_them_at_once(stand_ins):
    for i in range(2):
        stand_ins.plan(f"tracelift.{i}", {"hold": 10, "code": 75})
    process = stand_ins.start("local_processes", "2", "--installed", "--", "train")
    stand_ins.wait_for_calls("tracelift", 2)
    process.send_signal(signal.SIGINT)
    stand_ins.wait_for_signals(2)
    process.send_signal(signal.SIGINT)
    assert ended(process).code == 130
    assert len(stand_ins.signals()) == 4


def test_a_dry_run_prints_each_process_and_pasted_it_does_the_same(stand_ins):
    dry = stand_ins.launch("local_processes", "2", "--installed", "--dry_run", "--", *WORDS, LINES)
    assert (dry.code, dry.err, stand_ins.calls()) == (0, "", [])
    assert re.match(
        r"env JAX_PLATFORMS=cpu JAX_CPU_COLLECTIVES_IMPLEMENTATION=gloo "
        r"XLA_FLAGS=--xla_force_host_platform_device_count=1 NPROC=64 PJRT_NPROC=64 "
        r"JAX_COORDINATOR_ADDRESS=127\.0\.0\.1:\d+ "
        r"JAX_NUM_PROCESSES=2 JAX_PROCESS_ID=0 tracelift train '--gin\.X=a b' ",
        dry.out,
    )
    assert stand_ins.paste(dry.out).code == 0
    assert stand_ins.argv("tracelift.0") == stand_ins.argv("tracelift.1") == [[*WORDS, LINES]]


def test_without_an_installation_it_makes_one(stand_ins):
    dry = stand_ins.launch("local_processes", "1", "--dry_run", "--", "train")
    assert dry.out.splitlines()[0] == f"source {ROOT}/launch/env.sh && ensure_venv ''"


@pytest.mark.parametrize("first", [(), ("0",), ("two",), ("--devices=2",)])
def test_the_number_of_processes_comes_first(stand_ins, first):
    done = stand_ins.launch("local_processes", *first, "--", "train")
    assert (done.code, done.out) == (2, "")
    assert (
        done.err == "local_processes.sh: give the number of processes first: launch/local_processes.sh 2 -- train ...\n"
    )
