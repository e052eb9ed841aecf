"""Training before an executor behind a real HTTP server: what is asked, how it is judged, what an outage costs."""

import dataclasses
import json
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from chat_service import FINE, Act, Asked, ChatService, service
from served import flags, noisy, reasoning_in
from tiny import assert_same, command, make_train, metrics, run, start, write_gin, write_models

from tracelift_jax import config, gin_config
from tracelift_jax.config import ExecutorServer, RewardConfig
from tracelift_jax.rollout.records import records
from tracelift_jax.train.checkpoint import Checkpoints
from tracelift_jax.train.planner_loop import PlannerTraining, planner_weights
from tracelift_jax.train.roles import load_roles

MORE = ("--gin.STEPS=5", "--gin.Schedule.evaluate_every=3", "--gin.Schedule.checkpoint_every=10")
"""Held-out problems after steps 0, 3 and 5, and checkpoints after 3 and 5."""
EVALUATION = 2 * 3 * 2
"""Requests of one: greedy and sampled, three problems, with reasoning and without."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def gin(folder) -> Path:
    return write_gin(folder, "config.Evaluation.modes = ('sampled', 'greedy')\n")


def train(gin: Path, url: str, run_dir: Path, *more: str):
    return command("train", *flags(gin, url, *MORE, "--gin.ExecutorServer.retries=1", *more), f"--run_dir={run_dir}")


def traces(run_dir: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted((run_dir / "traces").iterdir())}


def checkpointed(run_dir: Path) -> list[int]:
    return sorted(int(folder.name) for folder in (run_dir / "checkpoints").iterdir() if folder.name.isdigit())


def learned(run_dir: Path, without: str = "executor/seconds") -> list[dict[str, Any]]:
    """Its metrics but those whose name matches `without`."""
    return [{name: value for name, value in row.items() if not re.match(without, name)} for row in metrics(run_dir)]


@pytest.fixture(scope="module")
def server():
    with service(answer=noisy) as running:
        yield running


@pytest.fixture(autouse=True)
def _behave(server):
    server.behaviour = lambda asked, before: FINE
    server._before.clear()


@pytest.fixture(scope="module")
def straight(gin, server, tmp_path_factory) -> Path:
    """Five steps without a break."""
    run_dir = tmp_path_factory.mktemp("straight") / "run"
    server.behaviour = lambda asked, before: FINE
    outcome = train(gin, server.url, run_dir)
    assert outcome.code == 0, outcome.errors
    return run_dir


def newest(gin: Path, url: str, run_dir: Path):
    """The newest checkpoint of a run: (step, state, host)."""
    _, *rest = flags(gin, url, *MORE)
    files = [gin, *(flag.removeprefix("--gin_file=") for flag in rest if flag.startswith("--gin_file="))]
    bindings = [flag.removeprefix("--gin.") for flag in rest if flag.startswith("--gin.")]
    experiment = gin_config.load(config.Train, [str(file) for file in files], bindings).value
    training = PlannerTraining(experiment, load_roles(experiment.roles, experiment.loss.normalize))
    checkpoints = Checkpoints(run_dir / "checkpoints")
    found, scores = checkpoints.restore(training.state), checkpoints.scores
    checkpoints.close()
    assert found is not None
    return *found, scores


def assert_same_run(gin: Path, url: str, here: Path, there: Path) -> None:
    (step, state, host, scores), (other, other_state, other_host, other_scores) = (
        newest(gin, url, run_dir) for run_dir in (here, there)
    )
    assert (step, host) == (other, other_host)
    assert scores.items() <= other_scores.items() and 5 in scores
    assert_same(state, other_state)
    assert learned(here) == learned(there)
    assert traces(here) == traces(there)


# -------------------------------------------------------------------------------------------- what is asked and judged


def down_for_some(asked: Asked, before: int) -> Act:
    """One answer in five never comes."""
    return Act(500) if asked.body["seed"] % 5 == 0 else FINE


class Played:
    """Steps of a training, and what the server was asked in each."""

    def __init__(self, folder: Path, server: ChatService, reward: RewardConfig, steps: int, **settings: Any):
        settings = {"retries": 0, "together": False, "most_failed": 0.9} | settings
        roles = {
            "executor_server": ExecutorServer(server.url, "m", **settings),
            "reward": reward,
            "executor": config.Sampling(max_tokens=3, temperature=0.8, top_p=0.9),
        }
        experiment = make_train(folder, roles=roles)
        self.training = PlannerTraining(experiment, load_roles(experiment.roles))
        state, self.rows, self.asked, self.metrics, self.known = self.training.state, [], [], [], []
        for step in range(1, steps + 1):
            begin = len(server.asked)
            batch, problems = self.training.next_batch()
            self.known.append(dict(self.training.baseline.get_state()))
            state, _, aux = self.training.step(state, batch)
            done, heard, counts = jax.device_get(aux[0][0]), aux[0][1], aux[1]
            assert heard is not None
            if counts is not None:
                self.training.remember(step, problems, jax.device_get(counts))
            loaded = self.training.loaded
            task, prompts = self.training.config.roles.task, self.training.config.roles.prompts
            self.rows.append(records(done, problems, task, loaded.tokenizer, prompts, {"step": step}, heard))
            self.asked.append(server.asked[begin:])
            self.metrics.append(heard.metrics)


def verdict_of(text: str | None, reference: str) -> str:
    """By eye: the answers of `noisy` hold one digit or none."""
    if text is None:
        return "failed"
    return "ok" if re.findall(r"\d", text) == [reference] else "wrong"


def recomputed(row: dict[str, Any], reward: RewardConfig) -> tuple[list[str], float, float, bool]:
    """Verdicts, uplift, reward and whether a trace counts, from its answers and its grade."""
    verdicts = [verdict_of(text, row["reference"]) for text in row["answers"]]
    trials = sum(verdict != "failed" for verdict in verdicts[1:])
    ok = verdicts[1:].count("ok")
    base_ok, base = row["without_counts"]
    gained = ok / trials - base_ok / base if trials and base else 0.0
    grade = row["score"]
    counted = verdicts[0] != "failed" and trials > 0 and base > 0
    if reward.malformed == "fail" and not row["well_formed"]:
        verdicts, gained, counted = ["wrong"] * len(verdicts), -base_ok / max(base, 1), trials > 0 and base > 0
        assert grade == 0.0
    if reward.malformed == "mask" and not row["well_formed"]:
        counted = False
    shaped = grade * gained if gained >= 0 else (1 - grade) * gained
    return verdicts, gained, 0.5 * (verdicts[0] == "ok") + 0.5 * shaped, counted


RULES = [("fail", "cached"), ("execute", "resample"), ("mask", "cached")]


@pytest.mark.parametrize(("malformed", "baseline"), RULES, ids=[rule for rule, _ in RULES])
def test_rewards_are_what_the_answers_make_them(folder, server, malformed, baseline):
    """Where answers do not come, too: such a verdict is none, and the others of a group are normalized without it."""
    reward = RewardConfig(uplift="sampled", repeats=2, baseline=baseline, baseline_samples=4, malformed=malformed)
    server.behaviour = down_for_some
    played = Played(folder, server, reward, steps=6)
    seen, partly = set(), 0
    for rows in played.rows:
        for first in range(0, len(rows), 3):
            group, rewards, counts = rows[first : first + 3], [], []
            for row in group:
                verdicts, gained, value, counted = recomputed(row, reward)
                assert row["verdicts"] == verdicts and row["counted"] == counted, row
                np.testing.assert_allclose([row["uplift"], row["reward"]], [gained, value], atol=1e-6)
                rewards.append(value)
                counts.append(counted)
                seen |= {*verdicts, "well" if row["well_formed"] else "malformed"}
            kept = np.array(rewards)[counts]
            centred = kept - kept.mean() if len(kept) else kept
            expected = np.zeros(3)
            expected[counts] = centred / (np.sqrt(np.mean(centred**2)) + 1e-4) if len(kept) else []
            np.testing.assert_allclose([row["advantage"] for row in group], expected, atol=1e-4)
            partly += 0 < sum(counts) < 3 and np.abs(expected).max() > 0.1
    assert seen == {"ok", "wrong", "failed", "well", "malformed"} and partly
    check_traffic(played, baseline)
    if baseline == "cached":
        check_cache(played)


def check_traffic(played: Played, baseline: str) -> None:
    """Every record's answers are the server's to the prompt that its trace makes; nothing else was asked."""
    for rows, asked, counted in zip(played.rows, played.asked, played.metrics, strict=True):
        by_prompt: dict[str, list[str | None]] = {}
        for one in asked:
            text = None if one.body["seed"] % 5 == 0 else noisy(one, 0)
            by_prompt.setdefault(one.prompt, []).append(text)
        expected: dict[str, list[str | None]] = {}
        for number, row in enumerate(rows):
            assert row["answer_tokens"] is None
            prompt = f"{row['problem']}\n<reasoning>{row['reasoning']}</reasoning>\nAnswer:"
            if reasoning_in(prompt) == row["reasoning"]:  # what comes behind the tag is not in the record
                expected.setdefault(prompt, []).extend(row["answers"])
            if baseline == "resample" or number % 3 == 0:
                expected.setdefault(f"{row['problem']}\nAnswer:", []).extend(row["without_answers"])
        for prompt, texts in expected.items():
            assert sorted(by_prompt.get(prompt, []), key=str) == sorted(texts, key=str), prompt
        failed = sum(one.body["seed"] % 5 == 0 for one in asked)
        assert counted["executor/answers"] == counted["executor/requests"] == len(asked)
        assert counted["executor/failed"] == failed / len(asked) > 0
        assert len({one.body["seed"] for one in asked}) > 0.9 * len(asked)
        assert {one.body["temperature"] for one in asked} == {0.8} and {one.body["top_p"] for one in asked} == {0.9}


def check_cache(played: Played) -> None:
    """A problem is asked alone once, and its counts are used from the second step after."""
    used = 0
    for rows, known, step in zip(played.rows, played.known, range(1, 7), strict=True):
        for row in rows:
            ok, trials, measured = known.get(row["problem_id"], (0, 0, 9))
            if measured + 2 <= step:
                assert row["without_counts"] == [ok, trials] and row["without_answers"] == []
                used += 1
            else:
                texts = row["without_answers"]
                verdicts = [verdict_of(text, row["reference"]) for text in texts]
                assert row["without_counts"] == [verdicts.count("ok"), 4 - verdicts.count("failed")] and len(texts) == 4
    assert used


def test_filling_rows_are_not_asked_about(folder, server):
    """Nor are they in the metrics."""
    played = Played(folder, server, RewardConfig(uplift="sampled", repeats=1, baseline="resample"), 0, together=True)
    training = played.training
    assert training.elsewhere is not None
    batch, problems = training.next_batch()
    begin = len(server.asked)
    weights = planner_weights(training.loaded, training.frozen, training.state.trainable)
    real = np.array([True, False, True, False])
    done, heard = training.elsewhere(
        training.loaded.text, weights, dataclasses.replace(batch, real=real), problems, jax.random.key(0)
    )
    asked = server.asked[begin:]
    texts = {problems[0].text, problems[2].text}
    assert len(asked) == 2 * 3 * 2 and {one.prompt.partition("\n")[0] for one in asked} == texts
    assert heard.metrics["executor/answers"] == 2 * 3 * 3 and heard.metrics["executor/failed"] == 0.0
    assert np.asarray(done.counted).any(1).tolist() == real.tolist()


# -------------------------------------------------------------------------------------------------- trouble and outages


def test_the_run_is_worth_comparing(straight):
    rows = [json.loads(line) for text in traces(straight).values() for line in text.splitlines()]
    assert len(rows) == 5 * 12 and {row["verdicts"][0] for row in rows} == {"ok", "wrong"}
    assert len({row["advantage"] for row in rows}) > 6
    assert {row["step"] for row in rows if row["without_counts"][1] and not row["without_answers"]} >= {4, 5}
    weights = {row["weights"]["executor"] for row in rows}
    assert len(weights) == 1 and re.fullmatch(r"http://127\.0\.0\.1:\d+/v1 \(scripted\), completions", weights.pop())
    evaluated = [row for row in metrics(straight) if "eval/sampled/accuracy" in row]
    assert [row["step"] for row in evaluated] == [0, 3, 5] and all(row["eval/greedy/failed"] == 0 for row in evaluated)
    assert checkpointed(straight) == [3, 5]


def test_trouble_that_passes_leaves_no_mark(gin, server, straight, tmp_path):
    """Every request fails once, each in its way."""
    kinds = [Act(500), Act(429), Act(drop=True), Act(half=True), Act(body="{}")]
    server.behaviour = lambda asked, before: FINE if before else kinds[len(asked.prompt) % 5]
    outcome = train(gin, server.url, tmp_path / "run")
    assert outcome.code == 0, outcome.errors
    assert traces(tmp_path / "run") == traces(straight)
    counts = "executor/(seconds|requests|retries)"
    assert learned(tmp_path / "run", counts) == learned(straight, counts)
    steps = [row for row in metrics(tmp_path / "run") if "executor/retries" in row]
    assert all(row["executor/requests"] == 2 * row["executor/retries"] > 0 for row in steps)
    assert_same(newest(gin, server.url, tmp_path / "run")[1], newest(gin, server.url, straight)[1])


def test_outages_lose_nothing(gin, server, straight, tmp_path):
    """The server goes down in step 2, in the evaluation after step 3, in step 5, and in the last evaluation."""
    run_dir = tmp_path / "run"
    steps = {row["step"]: int(row["executor/requests"]) for row in metrics(straight) if "executor/requests" in row}

    def until_down(requests: int, kept: list[int]) -> None:
        begin = len(server.asked) + requests
        server.behaviour = lambda asked, before: Act(503) if len(server.asked) > begin else FINE
        outcome = train(gin, server.url, run_dir)
        [line] = outcome.errors.splitlines()
        assert outcome.code == 2 and line.startswith(f"tracelift: {server.url} (scripted): 503 no, 503; with this ")
        assert line.endswith("and ExecutorServer.most_failed is 0.1; the same command goes on once it works")
        assert checkpointed(run_dir) == kept

    until_down(EVALUATION // 2, [])  # before anything was done
    until_down(EVALUATION + steps[1] + 1, [1])
    until_down(steps[2] + steps[3] + 1, [1, 3])
    assert [row["step"] for row in metrics(run_dir) if "eval/sampled/accuracy" in row] == [0]
    until_down(EVALUATION + steps[4] + 1, [3, 4])
    until_down(steps[5] + EVALUATION - 2, [3, 4, 5])
    server.behaviour = lambda asked, before: FINE
    asked = len(server.asked)
    outcome = train(gin, server.url, run_dir)
    assert outcome.code == 0, outcome.errors
    assert len(server.asked) - asked == EVALUATION  # no step was left to do
    assert_same_run(gin, server.url, run_dir, straight)


def test_all_answers_of_an_evaluation_may_fail(gin, server, tmp_path):
    """A share of nine tenths may: all of the three problems' first answers and none of the others are not many."""
    server.behaviour = lambda asked, before: Act(500) if "<reasoning>" in asked.prompt else FINE
    outcome = train(gin, server.url, tmp_path / "run", "--gin.ExecutorServer.most_failed=0.9")
    assert outcome.code == 2
    assert outcome.errors == "tracelift: evaluation: none of 3 held-out problems was answered and judged\n"


# ------------------------------------------------------------------------------------------------------- real processes


def wait_for(process, what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 180
    while not what() and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    assert what(), "it did not come to that"


@pytest.mark.slow
def test_signals_while_a_slow_server_is_waited_for(gin, server, straight, tmp_path):
    """The first stops behind the step, with a checkpoint; a second leaves at once, and leaves the server alone."""
    run_dir = tmp_path / "run"
    steps = {row["step"]: int(row["executor/requests"]) for row in metrics(straight) if "executor/requests" in row}
    more = (*MORE, "--gin.ExecutorServer.retries=1", "--gin.ExecutorServer.deadline=100.0")

    def held(requests: int):
        server.forget()
        server.hold_after = requests
        process = start("train", *flags(gin, server.url, *more), f"--run_dir={run_dir}")
        wait_for(process, lambda: len(server.answered) >= requests and server.now > 0)
        time.sleep(0.3)
        return process

    try:
        process = held(EVALUATION + steps[1] + 1)
        process.send_signal(signal.SIGTERM)
        assert process.stdout is not None
        while "stopping after this step" not in (line := process.stdout.readline()):
            assert line, process.communicate()
        time.sleep(0.5)
        assert process.poll() is None  # the step is not done
        server.hold_after = None
        _, errors = process.communicate(timeout=100)
        assert (process.returncode, errors) == (0, "") and checkpointed(run_dir) == [2]

        process = held(2)
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        while "stopping after this step" not in (line := process.stdout.readline()):
            assert line, process.communicate()
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        assert process.returncode == 130 and time.monotonic() - began < 10
        assert checkpointed(run_dir) == [2]
    finally:
        process.kill()
        process.communicate()
        server.hold_after = None
    outcome = command("train", *flags(gin, server.url, *more), f"--run_dir={run_dir}")
    assert outcome.code == 0, outcome.errors
    assert traces(run_dir) == traces(straight)
    assert_same(newest(gin, server.url, run_dir)[1], newest(gin, server.url, straight)[1])


# ------------------------------------------------------------------------------------------------- with what it trained


@pytest.mark.slow
def test_what_a_served_run_trained_is_used_like_any_other(gin, server, straight, tmp_path, capsys):
    run_dir = Path(shutil.copytree(straight, tmp_path / "run"))
    capsys.readouterr()
    asked = len(server.asked)
    run("eval", f"--run_dir={run_dir}")
    assert len(server.asked) == asked  # what the run recorded of itself
    assert "run" in capsys.readouterr().out and (run_dir / "eval.json").exists()
    run("eval", f"--run_dir={run_dir}", "--gin.Evaluation.problems=4")
    assert len(server.asked) - asked == 2 * 2 * 4 * 2
    after = json.loads((run_dir / "eval.json").read_text())["after"]
    assert after["eval/greedy/problems"] == 4.0 and after["eval/greedy/failed"] == 0.0
    run("export", run_dir, f"--out={tmp_path / 'planner'}")
    assert (tmp_path / "planner" / "model.safetensors").exists()
    solving = ("solve", f"--run_dir={run_dir}", "The dial shows 7. Ann turns it up 5. What does it show now?")
    outcome = command(*solving)
    assert outcome.code == 2 and outcome.errors == (
        "tracelift: tracelift solve asks an executor on the device; --gin.Roles.executor_server=None takes the base\n"
    )
    capsys.readouterr()
    run(*solving, "--gin.Roles.executor_server=None", "--json")
    assert json.loads(capsys.readouterr().out)["problem"].startswith("The dial shows 7.")


def test_its_records_are_verified(server, folder, tmp_path, capsys):
    """Answers that never came are none."""
    server.behaviour = down_for_some
    reward = RewardConfig(uplift="sampled", repeats=2, baseline_samples=1)
    [rows] = Played(folder, server, reward, steps=1).rows
    file = tmp_path / "step.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run("verify", file, "--json")
    came = sum(text is not None for row in rows for text in row["answers"])
    assert json.loads(capsys.readouterr().out)["answers"] == came < 36
