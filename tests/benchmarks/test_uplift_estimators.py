"""Estimators of uplift side by side: what the likelihood is worth on the shipped dial models, and the command."""

import re

import numpy as np
import pytest
from tiny import write_gin, write_models

from benchmarks.uplift_estimators import ESTIMATORS, LIKELIHOOD, Comparison, Sizes, compare, main, root_mean
from tracelift_jax import config, gin_config
from tracelift_jax.errors import UserError

SAMPLED = "sampled, 3 against 3"
DIAL = ["experiments/dial/tracelift.gin"]


def dial(sizes: Sizes, *names: str, bindings: tuple[str, ...] = ()) -> Comparison:
    experiment = gin_config.load(config.Train, DIAL, bindings).value
    return compare(experiment, sizes, {name: ESTIMATORS[name] for name in names})


def check(found: Comparison) -> None:
    """The likelihood's whole deviation is at most a fifth of the sampling noise of 3 against 3, its bias below 0.01."""
    likelihood, sampled = found.estimators[LIKELIHOOD].errors, found.estimators[SAMPLED].errors
    noise = np.sqrt(sampled.variance.mean())
    assert root_mean(likelihood.square)["value"] <= noise / 5
    assert abs(np.nanmean(likelihood.canonical_bias)) < 0.01
    assert likelihood.variance.max() == 0
    # What three binomial draws on either side of a rate known by the truth must give.
    truth = found.truth
    rate, base = truth.value + truth.without[:, None, None], truth.without
    expected = np.sqrt((rate * (1 - rate)).mean() / 3 + (base * (1 - base)).mean() / 3)
    np.testing.assert_allclose(noise, expected, rtol=0.15)


@pytest.mark.slow
def test_the_likelihood_on_the_dial_world():
    found = dial(Sizes(8, batch=8, temperatures=(1.0,), draws=256, repetitions=6, rounds=1), LIKELIHOOD, SAMPLED)
    check(found)
    assert found.truth.value.shape == (8, 1, 8)
    assert found.truth.canonical.mean() > 0.9
    tokens = {name: one.tokens for name, one in found.estimators.items()}
    # " 4" and the end token; the executor hardly ever says more.
    assert tokens[LIKELIHOOD] == (2, 0.25)
    np.testing.assert_allclose(tokens[SAMPLED], (6, 6), atol=0.1)


@pytest.mark.slow
def test_the_likelihood_on_the_dial_world_at_full_size():
    found = dial(Sizes(), LIKELIHOOD, SAMPLED)
    check(found)
    # Hotter planners write worse reasoning.
    assert found.truth.value[:, 0].mean() > found.truth.value[:, 1].mean() + 0.1


# ---------------------------------------------------------------------------------------------------------- the command


@pytest.mark.slow
def test_the_command_writes_its_tables(tmp_path, capsys):
    gin = write_gin(write_models(tmp_path))
    small = ["--problems=5", "--batch=4", "--draws=8", "--repetitions=2", "--rounds=1", "--temperatures=1,2"]
    main([f"--gin_file={gin}", *small, f"--out={tmp_path / 'table.md'}"])
    text = (tmp_path / "table.md").read_text()
    assert capsys.readouterr().out == text
    preface, table, paired = (part.splitlines() for part in text.split("\n\n"))
    # Five held-out problems in batches of four; the three rows that fill the second are in no number.
    assert preface[0] == "5 held-out problems, 3 traces each at planner temperature 1 and 2: 30 traces."
    assert preface[2].startswith("Truth: 8 draws a trace, 24 a problem without one; ")
    number = r"[+-]?\d\.\d+"
    ranged = rf"{number} \({number}, {number}\)"
    assert [line.split(" | ")[0].strip("| ") for line in table] == ["estimator", "---", *ESTIMATORS]
    for line in table[2:]:
        cells = rf"\| .* \| {ranged} \| ({ranged}|-) \| {number} \| {ranged} \| {ranged} \| ({ranged}|-) \| "
        assert re.fullmatch(cells + r"\d+\.\d\d \+ \d+\.\d\d \| \d+\.\d\d \|", line), line
    assert table[2].endswith(" | 1.00 |")
    assert len(paired) == 2 + len(ESTIMATORS) - 1
    assert all(re.fullmatch(rf"\| .*( \| ({ranged}|-)){{4}} \|", line) for line in paired[2:])


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--draws=100", "--draws must be a multiple of 64, got 100"),
        ("--problems=1", "--problems must be at least 2, got 1"),
        ("--repetitions=1", "--repetitions must be at least 2, got 1"),
        ("--temperatures=1,hot", "--temperatures must be numbers with commas between them, got 1,hot"),
        ("--temperatures=0", "--temperatures must be above 0"),
    ],
)
def test_wrong_sizes_are_one_line(flag, message):
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        main(["--gin_file=" + DIAL[0], flag])
