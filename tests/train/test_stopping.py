"""Signals that stop a run: the first asks, its echo is nothing, a later one acts."""

import signal
import time

import pytest

from tracelift_jax.train import stopping
from tracelift_jax.train.stopping import Stopper


@pytest.fixture
def reached():
    """SIGTERMs that reached whoever handled them before, and would have ended the process."""
    found = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: found.append(number))
    yield found
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_asks(reached, number):
    said = []
    with Stopper(said.append) as stopper:
        assert not stopper.leaving
        signal.raise_signal(number)
        assert stopper.leaving
    assert (said, reached) == (["stopping after this step; once more stops at once"], [])


def test_the_same_signal_by_two_ways_is_one(reached):
    with Stopper(lambda _: None) as stopper:
        for _ in range(3):
            signal.raise_signal(signal.SIGTERM)
        assert (stopper.leaving, reached) == (True, [])


def test_a_second_signal_acts_at_once(reached, monkeypatch):
    monkeypatch.setattr(stopping, "_SAME_SIGNAL_SECONDS", 0.05)
    with Stopper(lambda _: None):
        signal.raise_signal(signal.SIGTERM)
        time.sleep(0.06)
        signal.raise_signal(signal.SIGTERM)
        assert reached == [signal.SIGTERM]


def test_a_second_ctrl_c_is_a_keyboard_interrupt(monkeypatch):
    monkeypatch.setattr(stopping, "_SAME_SIGNAL_SECONDS", 0.0)
    with Stopper(lambda _: None):
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_afterwards_signals_are_as_before(reached):
    with Stopper(lambda _: None):
        pass
    signal.raise_signal(signal.SIGTERM)
    assert reached == [signal.SIGTERM]
