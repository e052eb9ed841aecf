"""Real problems, real tokenization, real lengths: `experiments/gsm8k/smoke.gin` as its header says to run it."""

import json
from pathlib import Path

import pytest

from tracelift_jax.cli import main

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
SMOKE, TASK = EXPERIMENTS / "gsm8k" / "smoke.gin", EXPERIMENTS / "tasks" / "gsm8k.gin"


@pytest.mark.slow
@pytest.mark.parametrize("form", ["jsonl", "array_record"])
def test_two_steps_and_sixteen_problems(shared_data, tmp_path, form):
    train, test = shared_data / "gsm8k" / "train.jsonl.gz", shared_data / "gsm8k" / "test.jsonl"
    if form == "array_record":
        files = [f"--gin.TRAIN={train}", f"--gin.TEST={test}"]
        main(["prepare", f"--gin_file={TASK}", *files, f"--out={tmp_path}"])
        train = test = tmp_path / "gsm8k" / "1.0.0"
    run = tmp_path / "run"
    tokenizer = shared_data / "qwen2.5_tokenizer"
    flags = [f"--gin.TRAIN={train}", f"--gin.TEST={test}", f"--gin.TOKENIZER={tokenizer}"]
    main(["train", f"--gin_file={SMOKE}", f"--run_dir={run}", *flags])
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 1, 2, 2]
    assert rows[0]["eval/sampled/problems"] == rows[-1]["eval/greedy/problems"] == 16
    records = [json.loads(line) for line in (run / "traces" / "step_000002.jsonl").read_text().splitlines()]
    assert len(records) == 2 * 4
    # 1 primary sample and 3 more with the reasoning, 8 without; K samples of a random model are never all right.
    assert all(len(record["verdicts"]) == 4 and record["without_counts"][1] == 8 for record in records)
    assert {len(record["trace_tokens"]) for record in records} <= set(range(1, 65))
