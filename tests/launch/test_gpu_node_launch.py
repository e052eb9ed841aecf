"""One GPU machine: one process, started again after a checkpoint, stopped once when asked to."""

import os
import signal

import pytest
from launchers import LINES, WORDS, ended

QUICK = ("--installed", "--wait=0")


def test_it_runs_one_process_with_the_words_as_given_and_its_exit_code(stand_ins):
    stand_ins.plan("tracelift", {"out": "hello\n", "code": 0})
    done = stand_ins.launch("gpu_node", "--installed", "--", *WORDS, LINES)
    assert (done.code, done.out, done.err) == (0, "hello\n", "")
    assert stand_ins.argv("tracelift") == [[*WORDS, LINES]]
    assert stand_ins.calls("tracelift")[0]["environment"] == {}


def test_the_devices_are_the_ones_that_are_named(stand_ins):
    assert stand_ins.launch("gpu_node", "--installed", "--devices=1,3", "--", "train").code == 0
    assert stand_ins.calls("tracelift")[0]["environment"] == {"CUDA_VISIBLE_DEVICES": "1,3"}


def test_it_starts_again_after_75_until_it_is_done(stand_ins):
    stand_ins.plan("tracelift", {"code": 75}, {"code": 75}, {"code": 0})
    done = stand_ins.launch("gpu_node", *QUICK, "--", "train", "--run_dir=r")
    assert done.code == 0
    assert stand_ins.argv("tracelift") == [["train", "--run_dir=r"]] * 3
    assert done.err.splitlines() == [f"gpu_node.sh: was stopped; starts again in 0 s (restart {n})" for n in (1, 2)]


@pytest.mark.parametrize("code", [0, 1, 2, 76, 137])
def test_it_does_not_start_again_after_anything_else(stand_ins, code):
    stand_ins.plan("tracelift", {"code": code})
    assert stand_ins.launch("gpu_node", *QUICK, "--", "train").code == code
    assert len(stand_ins.calls("tracelift")) == 1


def test_it_gives_up_after_so_many_restarts(stand_ins):
    stand_ins.plan("tracelift", {"code": 75})
    done = stand_ins.launch("gpu_node", *QUICK, "--max_restarts=2", "--", "train")
    assert done.code == 75
    assert len(stand_ins.calls("tracelift")) == 3
    assert "after 2 restarts" in done.err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_passed_on_once_and_ends_the_restarts(stand_ins, number):
    stand_ins.plan("tracelift", {"hold": 0.3, "code": 75})
    process = stand_ins.start("gpu_node", *QUICK, "--", "train")
    stand_ins.wait_for_calls("tracelift", 1)
    os.killpg(process.pid, number)  # as a terminal does: everyone in the group
    done = ended(process)
    assert (done.code, done.err) == (75, "")
    assert stand_ins.signals() == [["tracelift", number]]
    assert len(stand_ins.calls("tracelift")) == 1


def test_a_second_signal_reaches_it_too(stand_ins):
    stand_ins.plan("tracelift", {"hold": 10, "code": 75})
    process = stand_ins.start("gpu_node", *QUICK, "--", "train")
    stand_ins.wait_for_calls("tracelift", 1)
    process.send_signal(signal.SIGTERM)
    stand_ins.wait_for_signals(1)
    process.send_signal(signal.SIGTERM)
    assert ended(process).code == 130
    assert len(stand_ins.signals()) == 2


def test_asked_to_stop_while_it_waits_it_does_not_start_again(stand_ins):
    stand_ins.plan("tracelift", {"code": 75})
    process = stand_ins.start("gpu_node", "--installed", "--wait=600", "--", "train")
    assert process.stderr is not None
    assert "restart 1" in process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    assert ended(process).code == 75
    assert len(stand_ins.calls("tracelift")) == 1


def test_a_dry_run_prints_the_command_and_pasted_it_does_the_same(stand_ins):
    dry = stand_ins.launch("gpu_node", "--installed", "--devices=0", "--dry_run", "--", *WORDS, LINES)
    assert (dry.code, dry.err, stand_ins.calls()) == (0, "", [])
    assert dry.out.startswith("env CUDA_VISIBLE_DEVICES=0 tracelift train '--gin.X=a b' 'it'\\''s' ")
    assert stand_ins.paste(dry.out).code == 0
    (call,) = stand_ins.calls()
    assert (call["argv"], call["environment"]) == ([*WORDS, LINES], {"CUDA_VISIBLE_DEVICES": "0"})
