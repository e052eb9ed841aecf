"""Guards: what stops a run, when, and what stays."""

import json
import math

import pytest
from tiny import command, metrics, run, write_gin, write_models

from tracelift_jax.errors import UserError
from tracelift_jax.train.guard import GRADIENT, Guard, Watch

FINE = {GRADIENT: 1.0, "policy/kl_base": 0.1, "policy/entropy": 2.0}


def look(watch: Watch, values: list[float], metric: str = "policy/kl_base") -> list[bool]:
    seen = []
    for step, value in enumerate(values, start=1):
        watch.look(step, FINE | {metric: value})
        seen.append(watch.well)
    return seen


def test_a_guard_counts_steps_in_a_row():
    watch = Watch([Guard("policy/kl_base", most=0.5, patience=3)])
    assert look(watch, [0.5, 0.6, 0.7, 0.5, 0.9, 0.9]) == [True, False, False, True, False, False]
    with pytest.raises(UserError, match=r"stopped after step 7: policy/kl_base is 0\.8, at most 0\.5 .* for 3 steps"):
        watch.look(7, FINE | {"policy/kl_base": 0.8})


def test_ranges_have_two_ends_and_what_was_not_measured_is_in_them():
    guard = Guard("policy/entropy", least=0.1, most=5.0)
    assert [guard.holds(x) for x in (0.1, 0.09, 5.0, 5.1, math.nan, math.inf)] == [
        True,
        False,
        True,
        False,
        True,
        False,
    ]
    with pytest.raises(UserError, match=r"at most 5 and at least 0\.1"):
        look(Watch([Guard("policy/entropy", least=0.1, most=5.0, patience=1)]), [7.0], "policy/entropy")


def test_each_guard_counts_for_itself_and_is_remembered():
    guards = [Guard("policy/kl_base", most=0.5, patience=2), Guard("policy/entropy", least=1.0, patience=2)]
    watch = Watch(guards)
    watch.look(1, FINE | {"policy/kl_base": 1.0})
    watch.look(2, FINE | {"policy/entropy": 0.0})
    assert watch.get_state() == [0, 1]
    again = Watch(guards)
    again.set_state(json.loads(json.dumps(watch.get_state())))
    with pytest.raises(UserError, match="stopped after step 3: policy/entropy"):
        again.look(3, FINE | {"policy/entropy": 0.0})


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_stops_at_once(value):
    with pytest.raises(UserError, match=rf"stopped after step 4: {GRADIENT} is {value}"):
        Watch().look(4, FINE | {GRADIENT: value})


def test_wrong_guards_are_refused():
    with pytest.raises(UserError, match=r"Guard\.most or Guard\.least must be set"):
        Guard("policy/kl_base")
    with pytest.raises(UserError, match=r"Guard\.patience must be at least 1"):
        Guard("policy/kl_base", most=1.0, patience=0)
    with pytest.raises(UserError, match="no metric \"policy/kl_bse\"; did you mean 'policy/kl_base'"):
        Watch([Guard("policy/kl_bse", most=1.0)]).look(1, FINE)


@pytest.fixture(scope="module")
def gin(tmp_path_factory):
    """A run whose learning rate rises and rises, and with it the size of its updates."""
    return write_gin(
        write_models(tmp_path_factory.mktemp("models")),
        "config.Train.guards = (@config.Guard(),)\nconfig.Guard.metric = 'optimizer/update_ratio'\n"
        "config.OptimizerConfig.warmup = 6\nconfig.Schedule.checkpoint_every = 1\nconfig.Schedule.keep = 1\n",
    )


@pytest.mark.slow
def test_a_run_out_of_hand_ends_with_its_last_good_checkpoint(gin, tmp_path):
    run("train", f"--gin_file={gin}", f"--run_dir={tmp_path / 'free'}", "--gin.Guard.most=9.0")
    ratios = [row["optimizer/update_ratio"] for row in metrics(tmp_path / "free") if "optimizer/update_ratio" in row]
    assert ratios == sorted(ratios)
    limit = (ratios[2] + ratios[3]) / 2
    outcome = command(
        "train",
        f"--gin_file={gin}",
        f"--run_dir={tmp_path / 'run'}",
        f"--gin.Guard.most={limit}",
        "--gin.Guard.patience=2",
    )
    assert outcome.code == 2 and "stopped after step 5: optimizer/update_ratio" in outcome.errors
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["3"]
    assert max(row["step"] for row in metrics(tmp_path / "run")) == 5
