"""An executor behind a real HTTP server, which answers with the last number it reads: what comes of it is known."""

import json
import re
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from chat_service import FINE, Act, Asked, service
from scripted import config, run, start
from tiny import ROOT, command, make_train, metrics, write_gin
from tiny import run as tracelift

from tracelift_jax.config import Benchmark, ExecutorServer, JsonlTask, RewardConfig
from tracelift_jax.evals.experiment import REFERENCE

NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")


def last_number(text: str) -> str:
    return (NUMBER.findall(text) or ["none"])[-1].replace(",", "")


def follow(asked: Asked, number: int) -> str:
    """Follows the reasoning to its last number; without reasoning it does not know."""
    reasoning = asked.prompt.partition("<reasoning>")[2].partition("</reasoning>")[0]
    return f" {last_number(reasoning)}" if reasoning else " I do not know."


@pytest.mark.parametrize("endpoint", ["completions", "chat"])
def test_gsm8k_before_an_executor_that_follows_its_reasoning(folder, shared_data, tmp_path, endpoint):
    task = JsonlTask(test=str(shared_data / "gsm8k" / "test.jsonl"), fields="gsm8k")
    with service(answer=follow) as server:
        roles = {
            "reward_model": None,
            "task": task,
            "prompt_tokens": 1200,
            "reward": RewardConfig(kind="exec_only", uplift="none"),
            "executor_server": ExecutorServer(server.url, "scripted", endpoint=endpoint),
        }
        experiment = config(
            folder,
            train=make_train(folder, roles=roles),
            benchmarks=(Benchmark("gsm8k", task, problems=16),),
            answer_only="The answer is {answer}.",
            reasoning_tokens=4096,
        )
        work = start(experiment, lambda file: pytest.fail("no trained planner is asked for"))
        run(work, tmp_path / "out")
        assert server.most > 1
    rows = [json.loads(line) for line in (tmp_path / "out" / "records.jsonl").read_text().splitlines()]
    right: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in rows:
        assert row["likelihood"] is None and row["device_verdicts"] is None and row["judged"] == len(row["answers"])
        # The audits' outcomes follow from what they made of the text.
        expected = row["source"] != "none" and last_number(row["reasoning"]) == row["reference"]
        assert row["right"] == row["judged"] * expected
        right[row["source"], row["mode"]].append(row["accuracy"])
    for mode in ("greedy", "sampled"):
        rates = {source: float(np.mean(found)) for (source, how), found in right.items() if how == mode}
        assert rates[REFERENCE] == rates["reference/answer_only"] == 1.0 and rates["none"] == 0.0
        assert rates["reference/other"] == 0.0 and rates["reference/truncated"] < rates["reference/shuffled"] < 0.5


@pytest.fixture(scope="module")
def gin(folder) -> Path:
    return write_gin(folder).rename(folder / "served_train.gin")


def trained(gin: Path, url: str, run_dir: Path, *more: str):
    files = (f"--gin_file={gin}", f"--gin_file={ROOT / 'experiments' / 'executors' / 'server.gin'}")
    server = (f"--gin.URL={url}", "--gin.EXECUTOR=scripted", "--gin.ExecutorServer.backoff=0.01")
    return command("train", *files, *server, f"--run_dir={run_dir}", *more)


def records(run_dir: Path) -> dict[str, list[dict]]:
    files = sorted((run_dir / "traces").iterdir())
    return {file.name: [json.loads(line) for line in file.read_text().splitlines()] for file in files}


def test_training_over_http(gin, tmp_path):
    """Verdicts and uplift are what the executor's rule makes of each trace; trouble that passes leaves no mark."""
    with service(answer=follow) as server:
        assert trained(gin, server.url, tmp_path / "whole").code == 0
        whole = records(tmp_path / "whole")
        server.behaviour = lambda asked, before: FINE if before or sum(map(ord, asked.prompt)) % 3 else Act(500)
        server._before.clear()
        assert trained(gin, server.url, tmp_path / "flaky").code == 0
        assert records(tmp_path / "flaky") == whole
        assert sum(row["executor/retries"] for row in metrics(tmp_path / "flaky") if "executor/retries" in row) > 0
    seen = set()
    for rows in whole.values():
        for row in rows:
            expected = "ok" if last_number(row["reasoning"]) == row["reference"] else "wrong"
            verdict = expected if row["well_formed"] else "wrong"
            assert set(row["verdicts"]) == {verdict} and row["counted"] and row["answer_tokens"] is None
            ok, trials = row["with_counts"]
            assert ok == trials * (verdict == "ok") and row["without_counts"][0] == 0 < row["without_counts"][1]
            assert row["uplift"] == float(verdict == "ok")
            seen.add(verdict)
    assert seen == {"ok", "wrong"}
    assert all(row["executor/failed"] == 0.0 for row in metrics(tmp_path / "whole") if "executor/failed" in row)


@pytest.mark.slow
def test_what_fails_is_in_no_reward_and_an_outage_ends_the_run_and_loses_nothing(gin, tmp_path):
    patient = ("--gin.ExecutorServer.retries=0", "--gin.ExecutorServer.most_failed=0.9")
    with service(answer=follow) as server:
        assert trained(gin, server.url, tmp_path / "whole").code == 0
        whole = records(tmp_path / "whole")
        broken = {whole["step_000001.jsonl"][0]["reasoning"], whole["step_000001.jsonl"][3]["reasoning"]}
        server.behaviour = lambda asked, before: Act(500) if any(text in asked.prompt for text in broken) else FINE
        assert trained(gin, server.url, tmp_path / "masked", *patient).code == 0
        first = records(tmp_path / "masked")["step_000001.jsonl"]
        lost = [row["reasoning"] in broken for row in first]
        assert 0 < sum(lost) < len(lost)
        for row, gone in zip(first, lost, strict=True):
            # A malformed trace is wrong whoever answers, but its uplift is not known either.
            assert row["counted"] != gone and (set(row["verdicts"]) == {"failed"}) == (gone and row["well_formed"])
            assert not gone or row["advantage"] == 0.0
        assert metrics(tmp_path / "masked")[1]["executor/failed"] > 0.0
        # Down from the third step on.
        requests = len(server.asked)
        server.behaviour = lambda asked, before: FINE
        assert trained(gin, server.url, tmp_path / "counted").code == 0
        a_run = len(server.asked) - requests
        start_of_outage = len(server.asked) + a_run // 2
        server.behaviour = lambda asked, before: Act(503) if len(server.asked) > start_of_outage else FINE
        outcome = trained(gin, server.url, tmp_path / "down", "--gin.ExecutorServer.retries=1")
        assert outcome.code == 2 and "503" in outcome.errors and "ExecutorServer.most_failed is 0.1" in outcome.errors
        assert list((tmp_path / "down" / "checkpoints").iterdir())
        server.behaviour = lambda asked, before: FINE
        assert trained(gin, server.url, tmp_path / "down", "--gin.ExecutorServer.retries=1").code == 0
        assert records(tmp_path / "down") == whole


def test_solve_says_that_it_asks_the_device(gin):
    file = ROOT / "experiments" / "executors" / "server.gin"
    flags = (f"--gin_file={gin}", f"--gin_file={file}", "--gin.URL=http://localhost:1/v1", "--gin.EXECUTOR=x")
    outcome = command("solve", *flags, "The dial shows 7. What does it show now?")
    assert outcome.code == 2 and "tracelift solve asks an executor on the device" in outcome.errors
    assert tracelift("solve", f"--gin_file={gin}", "The dial shows 7. What does it show now?") is None
