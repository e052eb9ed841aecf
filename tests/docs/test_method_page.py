"""Every number of the worked example: by the project's functions, by its arithmetic, and by the shipped models."""

import json
import math
import re
import shlex

import jax.numpy as jnp
import numpy as np
import pytest
from pages import DOCS, blocks, script, table
from tiny import run

from tracelift_jax.config import GrpoConfig, RewardConfig
from tracelift_jax.models.rubric import score_of
from tracelift_jax.rollout.advantage import group_advantages
from tracelift_jax.rollout.reward import OK, WRONG, math_reward, shaped, success_rate, uplift
from tracelift_jax.tasks.dial import DialTask
from tracelift_jax.tasks.problem import Problem
from tracelift_jax.train.losses import grpo_loss, reduce_tokens

TEXT = (DOCS / "method.md").read_text()
TRACES = table(TEXT, "## 1. A problem and its traces")
LIKELIHOOD = table(TEXT, "## 2. Uplift")
SAMPLED = table(TEXT, "With `uplift = 'sampled'`")
RUBRIC = table(TEXT, "## 3. Score")
REWARD = table(TEXT, "## 4. Reward")
ADVANTAGE = table(TEXT, "## 5. Advantage")
OTHERS = table(TEXT, "The same group under other rewards")
TOKENS = table(TEXT, "## 6. The loss of a token")


def column(rows: list[list[str]], index: int) -> np.ndarray:
    return np.asarray([row[index] for row in rows], np.float32)


def assert_printed(rows: list[list[str]], index: int, values) -> None:
    """What is printed is the value to as many digits as are printed."""
    for row, value in zip(rows, np.asarray(values).ravel(), strict=True):
        digits = len(row[index].partition(".")[2])
        assert abs(float(row[index]) - float(value)) <= 0.5001 * 10**-digits, (row, value)


def advantages(rewards) -> np.ndarray:
    return np.asarray(group_advantages(jnp.asarray(rewards, jnp.float32)[None], jnp.ones((1, 4), bool))[0])


def test_the_traces_are_the_same_in_all_tables():
    for rows in (TRACES, LIKELIHOOD, SAMPLED, RUBRIC, REWARD, ADVANTAGE):
        assert [row[0] for row in rows] == ["A", "B", "C", "D"]
    for left, i, right, j in [(TRACES, 3, REWARD, 1), (RUBRIC, 7, REWARD, 2), (LIKELIHOOD, 3, REWARD, 3)]:
        assert [row[i] for row in left] == [row[j] for row in right]
    assert [row[5] for row in REWARD] == [row[1] for row in ADVANTAGE]
    own = {row[0]: row[2] for row in ADVANTAGE}
    assert OTHERS[0][1:] == list(own.values())
    assert [row[6] for row in TOKENS] == [own[row[0]] for row in TOKENS]
    tree = re.findall(r"─ ([A-D]) ── (\d)   (\w+) +score ([\d.]+) +uplift ([+−][\d.]+)", TEXT)
    wanted = [
        (name, answer, "right" if e2e == "1" else "wrong", score[7], f"{float(gained[3]):+.3f}".replace("-", "−"))
        for (name, _, answer, e2e, _), score, gained in zip(TRACES, RUBRIC, LIKELIHOOD, strict=True)
    ]
    assert tree == wanted


def test_the_oracle_agrees():
    text = re.search(r"The dial shows 7\..*now\?", TEXT)
    assert text
    problem = Problem("p", text[0], "4")
    for _, reasoning, answer, e2e, faithful in TRACES:
        assert DialTask().faithful(problem, reasoning.strip("`")) == faithful.startswith("yes")
        assert (answer == problem.answer) == (e2e == "1")
        assert reasoning.strip("`").endswith(f"= {answer}")


def test_uplift():
    assert_printed(LIKELIHOOD, 3, uplift(column(LIKELIHOOD, 1), column(LIKELIHOOD, 2)))
    counts = [[int(n) for cell in row[1:3] for n in cell.split(" of ")] for row in SAMPLED]
    for row, (right, drawn, base_right, base_drawn) in zip(SAMPLED, counts, strict=True):
        rates = []
        for ok, all_ in ((right, drawn), (base_right, base_drawn)):
            ones, judged = success_rate(jnp.asarray([OK] * ok + [WRONG] * (all_ - ok), jnp.int8))
            assert judged == all_
            rates.append(ones / judged)
        assert_printed([row], 3, uplift(*rates))
    assert {(drawn, base) for _, drawn, _, base in counts} == {
        (RewardConfig().repeats, RewardConfig().baseline_samples)
    }


def test_score_quality_and_reward():
    expected = np.stack([column(RUBRIC, i) for i in range(1, 6)], -1)
    assert_printed(RUBRIC, 7, score_of(jnp.asarray(expected), jnp.asarray(column(RUBRIC, 6))))
    right, score, gained = (column(REWARD, i) for i in (1, 2, 3))
    assert_printed(REWARD, 4, shaped(score, gained, RewardConfig().shaping))
    # From the quality as it is printed, and from what it is made of.
    assert_printed(REWARD, 5, 0.5 * right + 0.5 * column(REWARD, 4))
    np.testing.assert_allclose(math_reward(right, score, gained), column(REWARD, 5), atol=3e-4)


def test_advantages():
    assert_printed(ADVANTAGE, 2, advantages(column(ADVANTAGE, 1)))
    right, score, gained = (column(REWARD, i) for i in (1, 2, 3))
    for name, *printed in OTHERS:
        settings = dict(re.findall(r"`(\w+) = '(\w+)'`", name))
        rewards = math_reward(right, score, gained, RewardConfig(**settings))
        assert_printed([[cell] for cell in printed], 0, advantages(rewards))
    ours, exec_only = (dict(zip("ABCD", map(float, row[1:]), strict=True)) for row in (OTHERS[0], OTHERS[-1]))
    assert exec_only["B"] == exec_only["C"]
    assert 2.5 < ours["B"] / ours["C"] < 3


def test_losses_of_tokens():
    p, q, ratio, clipped, gain = (column(TOKENS, i) for i in (2, 3, 4, 5, 6))
    config = GrpoConfig()
    assert_printed(TOKENS, 4, q / p)
    assert_printed(TOKENS, 5, np.clip(ratio, 1 - config.clip_low, 1 + config.clip_high))
    assert_printed(TOKENS, 7, -np.minimum(ratio * gain, clipped * gain))
    one = jnp.ones((1, 1), bool)
    for row, now, then, a in zip(TOKENS, q, p, gain, strict=True):
        logs = (jnp.full((1, 1), math.log(x)) for x in (now, then))
        (total, weight), metrics = grpo_loss(*logs, jnp.full(1, a), one, one[0], config)
        assert weight == 1
        assert_printed([row], 7, total)
        cut = metrics["policy/clipped"][0]
        assert cut == (row[4] != row[5]), "the last two have no gradient"
    b, kl = (float(found) for found in re.findall(r"with b = ([\d.]+) and kl = ([\d.]+?):", TEXT)[0])
    logs = [jnp.full((1, 1), math.log(x)) for x in (q[1], p[1], b)]
    (total, _), metrics = grpo_loss(
        logs[0], logs[1], jnp.full(1, gain[1]), one, one[0], GrpoConfig(kl=kl), base_logprobs=logs[2]
    )
    [[*_, loss]], [[*_, divergence]] = (
        [row for row in written() if row[0] == name and row[2] == value]
        for name, value in [("loss", "-0.791"), ("divergence", "0.0352")]
    )
    assert float(loss) == pytest.approx(float(total), abs=5e-4)
    assert float(divergence) == pytest.approx(float(metrics["policy/kl_base"][0]), abs=5e-5)
    # "averaged, then those of all traces"
    mean, traces = reduce_tokens(
        jnp.array([[1.0, 3.0], [5.0, 0.0]]), jnp.array([[1, 1], [1, 0]], bool), jnp.ones(2, bool), config.reduction
    )
    assert mean / traces == (2 + 5) / 2


def written() -> list[tuple[str, str, str]]:
    """What it is, the sum, and its result, of all arithmetic that is written out."""
    lines = [line for block in blocks(TEXT, "arithmetic") for line in block.splitlines()]
    found = [re.fullmatch(r"(\w+): (.+) = (-?[\d.]+)", line) for line in lines]
    assert all(found) and len(found) == 19, lines
    return [match.groups() for match in found if match]


@pytest.mark.parametrize(("name", "sum_", "result"), written())
def test_arithmetic(name, sum_, result):
    assert re.fullmatch(r"([-+*/(), \d.]|min|log)+", sum_)
    value = eval(sum_, {"__builtins__": {}, "min": min, "log": math.log})
    assert_printed([[result]], 0, value)
    # A result of a trace is what a table has of it.
    if name in "ABCD":
        cells = {cell for rows in (RUBRIC, REWARD, ADVANTAGE, TOKENS) for row in rows if row[0] == name for cell in row}
        assert result in cells


@pytest.mark.slow
def test_the_shipped_models_say_the_same(capsys):
    command = re.sub(r" \\\n *", " ", blocks(TEXT, "bash")[0])
    arguments = shlex.split(command)[1:]
    run(*arguments, "--json")
    [solved] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [f"`{trace['reasoning']}`" for trace in solved["traces"]] == [row[1] for row in TRACES]
    assert [trace["answer"]["number"] for trace in solved["traces"]] == [row[2] for row in TRACES]
    grades = [trace["grade"] for trace in solved["traces"]]
    # Other devices round otherwise; what is printed is rounded.
    near = {"atol": 6e-4, "rtol": 0}
    np.testing.assert_allclose(
        [trace["answer"]["likelihood"] for trace in solved["traces"]], column(LIKELIHOOD, 1), **near
    )
    np.testing.assert_allclose([solved["without"]["likelihood"]] * 4, column(LIKELIHOOD, 2), **near)
    rubric = [list(grade["rubric"].values()) for grade in grades]
    np.testing.assert_allclose(np.ravel(rubric), np.ravel([row[1:6] for row in RUBRIC]).astype(float), atol=6e-3)
    np.testing.assert_allclose([grade["total"] for grade in grades], column(RUBRIC, 6), **near)
    np.testing.assert_allclose([grade["score"] for grade in grades], column(RUBRIC, 7), **near)


def test_the_picture(tmp_path):
    made = script(DOCS / "method.py")
    product, ours = made.figure().axes

    def at(axes):
        return {
            line.get_label(): dict(zip(*line.get_data(), strict=True))
            for line in axes.lines
            if "score" in line.get_label()
        }

    assert at(product)["score 0.9"][-1] == pytest.approx(-0.9) and at(ours)["score 0.9"][-1] == pytest.approx(-0.1)
    assert at(product)["score 0.2"][1] == pytest.approx(0.2) and at(ours)["score 0.2"][-0.5] == pytest.approx(-0.4)
    made.write(tmp_path / "one.svg")
    made.write(tmp_path / "two.svg")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert "Date" not in (DOCS / "method_shaping.svg").read_text()
