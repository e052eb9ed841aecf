"""Rollouts: every reward is computed again in plain Python from its record, and likelihoods from flat passes."""

import dataclasses
import functools
import json
import re
from fractions import Fraction

import jax
import numpy as np
import pytest
from tiny import first_batch, make_roles, write_models

from tracelift_jax.config import RewardConfig
from tracelift_jax.rollout.batch import Weights
from tracelift_jax.rollout.records import records
from tracelift_jax.rollout.rollout import rollout
from tracelift_jax.train.roles import load_roles

CONFIGS = {
    "reference": RewardConfig(uplift="sampled", baseline="resample", shaping="product", malformed="execute", repeats=2),
    "cached": RewardConfig(uplift="sampled", baseline="cached", baseline_samples=5, repeats=2, malformed="fail"),
    "likelihood": RewardConfig(malformed="fail"),
    "masked": RewardConfig(malformed="mask"),
    "uplift_only": RewardConfig(kind="uplift_only", malformed="execute"),
    "rm_only": RewardConfig(kind="rm_only", uplift="none", malformed="fail"),
    "exec_only": RewardConfig(kind="exec_only", uplift="none", malformed="mask"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def play(folder):
    """`play(name, normalize, **batch changes)`: (loaded, problems, rollout on the host, its records)."""

    @functools.cache
    def make(name):
        config = CONFIGS[name]
        loaded = load_roles(
            make_roles(
                folder,
                reward=config,
                traces=4,
                reward_model=make_roles(folder).reward_model if config.needs_grade else None,
            ),
            "std" if name != "likelihood" else "none",
        )
        trainable, frozen = loaded.trainable(0)
        weights = Weights({**frozen["planner"], **trainable}, frozen["executor"], loaded.reward_model)
        return loaded, weights, jax.jit(functools.partial(rollout, loaded.setup))

    def played(name, **changes):
        loaded, weights, roll = make(name)
        batch, problems = first_batch(loaded, 4)
        batch = dataclasses.replace(batch, **changes)
        done = jax.device_get(roll(loaded.text, weights, batch, jax.random.key(3)))
        task, prompts = loaded.roles.task, loaded.roles.prompts
        return loaded, problems, done, records(done, problems, task, loaded.tokenizer, prompts, {"step": 1})

    return played


def last_number(text: str) -> Fraction | None:
    """The last number of a short answer; of what `read_number` knows only what these answers hold."""
    found = re.findall(r"(?<![\w.)\]}])-\d+|\d+", text)
    return Fraction(found[-1]) if found else None


def verdict(answer: str, reference: str) -> str:
    return "ok" if last_number(answer) == Fraction(reference) else "wrong"


def recomputed(rows: list[dict], config: RewardConfig, normalize: str) -> list[dict]:
    """METHOD's equations on the records of one group, from its texts, likelihoods and scores."""
    out = []
    for row in rows:
        formed = row["well_formed"] or config.malformed != "fail"
        verdicts = [verdict(answer, row["reference"]) if formed else "wrong" for answer in row["answers"]]
        e2e = verdicts[0] == "ok"
        score = row["score"]
        uplift = 0.0
        if config.uplift == "sampled":
            without = [verdict(answer, row["reference"]) == "ok" for answer in row["without_answers"]]
            trials = config.repeats if config.baseline == "resample" else config.baseline_samples
            uplift = verdicts[1:].count("ok") / config.repeats - sum(without) / trials
        if config.uplift == "likelihood":
            uplift = row["likelihood"] - row["baseline_likelihood"]
        flipped = config.shaping == "sign_aware" and uplift < 0
        shaped = (1 - score if flipped else score) * uplift
        quality = {"tracelift": shaped, "rm_only": score, "uplift_only": uplift, "exec_only": e2e}[config.kind]
        reward = 0.5 * e2e + 0.5 * quality
        counted = row["well_formed"] or config.malformed != "mask"
        out.append({"verdicts": verdicts, "uplift": uplift, "reward": reward, "counted": counted})
    rewards = np.array([row["reward"] for row in out if row["counted"]])
    for row in out:
        row["advantage"] = 0.0
        if row["counted"]:
            row["advantage"] = row["reward"] - rewards.mean()
            row["advantage"] /= rewards.std() + 1e-4 if normalize == "std" else 1
    return out


ALIKE = ("cached", "likelihood", "rm_only")
"""Of configurations that others are much like."""


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in ALIKE else []) for n in CONFIGS])
def test_rewards_are_recomputed_from_their_records(play, name):
    loaded, problems, _, rows = play(name)
    assert json.loads(json.dumps(rows)) == rows
    assert len(rows) == 16
    for b, problem in enumerate(problems):
        group = rows[4 * b : 4 * b + 4]
        assert [row["trace"] for row in group] == [0, 1, 2, 3]
        assert {row["problem_id"] for row in group} == {problem.problem_id}
        expected = recomputed(group, CONFIGS[name], loaded.setup.normalize)
        for row, again in zip(group, expected, strict=True):
            assert row["verdicts"] == again["verdicts"]
            assert row["counted"] == again["counted"]
            for key, tolerance in (("uplift", 1e-6), ("reward", 1e-6), ("advantage", 2e-3)):  # 1e-6 over the std floor
                np.testing.assert_allclose(row[key], again[key], atol=tolerance, rtol=1e-4, err_msg=key)
            if not row["well_formed"] and CONFIGS[name].malformed == "fail":
                assert (row["score"], row["likelihood"], row["with_counts"][0]) == (0, 0, 0)


def test_the_tiny_roles_show_every_case(play):
    # What the tests above compare is worth comparing.
    rows = play("reference")[3]
    assert {row["well_formed"] for row in rows} == {True, False}
    assert {verdict for row in rows for verdict in row["verdicts"]} == {"ok", "wrong"}
    assert min(row["uplift"] for row in rows) < 0 < max(row["uplift"] for row in rows)
    graded = [row["score"] for row in play("likelihood")[3] if row["well_formed"]]
    assert min(graded) > 0.01
    assert len(set(graded)) == len(graded)
    assert {row["counted"] for row in play("masked")[3]} == {True, False}
    texts = [row["reasoning"] for row in rows if not row["well_formed"]]
    assert any("<reasoning>" in text for text in texts)


def test_well_formed_traces_close_a_body_that_says_something(play):
    loaded, _, _, rows = play("reference")
    for row in rows:
        text = loaded.tokenizer.decode(row["trace_tokens"])
        body, closed, rest = text.partition("</reasoning>")
        assert row["reasoning"] == body
        assert not rest
        assert row["well_formed"] == bool(closed and body.strip() and "<reasoning>" not in body), text


# ------------------------------------------------------------------------------------------------------------ baseline


def test_an_unknown_baseline_is_measured_once_for_the_group(play):
    _, _, done, rows = play("cached")
    assert done.uplift.baseline_answers.valid.any()
    for b in range(4):
        group = rows[4 * b : 4 * b + 4]
        [counts] = {tuple(row["without_counts"]) for row in group}
        assert counts[1] == 5
        assert counts[0] == sum(verdict(a, group[0]["reference"]) == "ok" for a in group[0]["without_answers"])
        assert len({tuple(row["without_answers"]) for row in group}) == 1


def test_known_counts_are_used_as_they_are_and_nothing_is_drawn(play):
    known, trials = np.array([3, 0, 7, 2], np.int32), np.array([8, 8, 7, 3], np.int32)
    _, _, done, rows = play("cached", baseline_ok=known, baseline_trials=trials)
    assert not done.uplift.baseline_answers.valid.any()
    assert [row["without_counts"] for row in rows] == [
        [int(known[b]), int(trials[b])] for b in range(4) for _ in range(4)
    ]
    for row in rows:
        right = row["verdicts"][1:].count("ok") / 2
        without = row["without_counts"][0] / row["without_counts"][1]
        np.testing.assert_allclose(row["uplift"], right - without, atol=1e-6)
        assert row["without_answers"] == []


def test_only_unknown_problems_take_what_is_measured(play):
    known, trials = np.array([3, 0, 0, 2], np.int32), np.array([8, 0, 0, 3], np.int32)
    measured = play("cached")[3]
    rows = play("cached", baseline_ok=known, baseline_trials=trials)[3]
    for b in range(4):
        row = rows[4 * b]
        if trials[b]:
            assert row["without_counts"] == [known[b], trials[b]]
            assert row["without_answers"] == []  # those drawn beside the unknown ones are not behind these counts
        else:  # the same key draws the same
            assert row["without_counts"] == measured[4 * b]["without_counts"]
            assert row["without_answers"] == measured[4 * b]["without_answers"] != []


def test_a_resampled_baseline_is_drawn_for_every_trace(play):
    _, _, done, rows = play("reference")
    assert done.uplift.baseline_answers.ids.shape[:3] == (4, 4, 2)
    for row in rows:
        right = sum(verdict(answer, row["reference"]) == "ok" for answer in row["without_answers"])
        assert row["without_counts"] == [right, 2]
    assert any(len({tuple(row["without_answers"]) for row in rows[4 * b : 4 * b + 4]}) > 1 for b in range(4))


# ---------------------------------------------------------------------------------------------------------- likelihood


def test_likelihoods_are_those_of_flat_passes(play):
    loaded, problems, _, rows = play("uplift_only")
    executor, variables = loaded.setup.executor, {"params": loaded.executor.params}
    encode, prompts = loaded.tokenizer.encode, loaded.roles.prompts

    @jax.jit
    def logits(ids):
        hidden, _ = executor.apply(variables, ids, ids >= 0)
        return executor.apply(variables, hidden, method="logits")

    def probability(shown: list[int], answer: list[int]) -> float:
        ids = np.array([[*shown, *answer, *[0] * (60 - len(shown) - len(answer))]])
        table = np.asarray(logits(ids)[0], np.float64) / loaded.roles.executor.temperature
        table -= np.log(np.exp(table).sum(-1, keepdims=True))
        return float(np.exp(sum(table[len(shown) + i - 1, token] for i, token in enumerate(answer))))

    control = {loaded.tokenizer.eos_id, loaded.tokenizer.pad_id}
    for i, row in enumerate(rows):
        problem = encode(problems[i // 4].text + "\n")
        answer = [*encode(" " + row["reference"]), loaded.tokenizer.eos_id]
        trace = [token for token in row["trace_tokens"] if token not in control]
        closed = "</reasoning>" in loaded.tokenizer.decode(trace)
        reasoning = [*encode(prompts.open), *trace, *([] if closed else encode(prompts.close))]
        np.testing.assert_allclose(
            row["likelihood"], probability([*problem, *reasoning, *encode("\nAnswer:")], answer), rtol=1e-4
        )
        np.testing.assert_allclose(
            row["baseline_likelihood"], probability([*problem, *encode("Answer:")], answer), rtol=1e-4
        )


# ------------------------------------------------------------------------------------------------------------- filling


def test_rows_that_only_fill_a_batch_count_for_nothing(play):
    _, _, done, _ = play("likelihood", real=np.array([True, False, True, True]))
    _, _, whole, _ = play("likelihood")
    assert not done.counted[1].any()
    assert not done.advantage[1].any()
    np.testing.assert_array_equal(done.advantage[[0, 2, 3]], whole.advantage[[0, 2, 3]])
    np.testing.assert_array_equal(done.reward, whole.reward)
