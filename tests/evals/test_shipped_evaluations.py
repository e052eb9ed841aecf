"""The evaluations that ship: they load as their headers say, and the benchmarks' files go through them."""

import json
import re
import shlex
from pathlib import Path

import pytest
from tiny import run

from tracelift_jax import gin_config
from tracelift_jax.config import Evaluate, HumanEval, JsonlTask, Mbpp, Train
from tracelift_jax.errors import UserError

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
SHARED = {
    "gsm8k": "gsm8k/test.jsonl",
    "addsub": "mawps/addsub.jsonl",
    "multiarith": "mawps/multiarith.jsonl",
    "singleeq": "mawps/singleeq.jsonl",
    "singleop": "mawps/singleop.jsonl",
}


def header_command(name: str) -> list[str]:
    """What the header of an evaluation's file says to type."""
    header = (EXPERIMENTS / "evals" / f"{name}.gin").read_text().split("from __gin__")[0]
    [line] = re.findall(r"^#   (tracelift eval .*)", re.sub(r" \\\n#", "", header), re.MULTILINE)
    return shlex.split(line)[2:]


@pytest.fixture
def trained(tmp_path) -> Path:
    """The config.gin of a run, as training writes it."""
    loaded = gin_config.load(Train, [str(EXPERIMENTS / "dial" / "tracelift.gin")])
    path = tmp_path / "config.gin"
    path.write_text(loaded.operative)
    return path


def test_the_dial_evaluation(trained, tmp_path):
    files, bindings, rest = gin_config.parse_flags(header_command("dial"))
    loaded = gin_config.load(Evaluate, [str(EXPERIMENTS.parent / file) for file in files], bindings)
    evaluated = loaded.value
    assert rest == ["--out=evals/dial"]
    kept = tmp_path / "kept.gin"
    kept.write_text(loaded.operative)
    assert gin_config.load(Evaluate, [str(kept)]).value == evaluated
    assert evaluated.train == gin_config.load(Train, [str(EXPERIMENTS / "dial" / "tracelift.gin")]).value
    assert [(b.name, b.task, b.problems) for b in evaluated.benchmarks] == [("dial", evaluated.train.roles.task, 512)]
    # A run's own file does as well.
    again = gin_config.load(Evaluate, [str(trained), str(EXPERIMENTS / "evals" / "dial.gin")]).value
    assert again == evaluated


def test_the_benchmarks(trained):
    files, bindings, rest = gin_config.parse_flags(header_command("benchmarks"))
    assert files == ["runs/gsm8k/config.gin", "experiments/evals/benchmarks.gin"]
    assert rest == ["--run_dir=runs/gsm8k", "--out=evals/gsm8k"]
    evaluated = gin_config.load(Evaluate, [str(trained), str(EXPERIMENTS / "evals" / "benchmarks.gin")], bindings).value
    assert len(evaluated.benchmarks) == 10
    assert [b.name for b in evaluated.chosen] == ["gsm8k", "svamp"]
    assert [b.task.test for b in evaluated.chosen] == ["test.jsonl", "SVAMP.json"]
    for benchmark in evaluated.benchmarks:
        assert isinstance(benchmark.task, JsonlTask)
        assert (benchmark.task.name, benchmark.problems, benchmark.split) == (benchmark.name, 0, "test")
    layouts = {b.name: b.task.fields for b in evaluated.benchmarks}
    assert {layouts[name] for name in ("addsub", "multiarith", "singleeq", "singleop")} == {"mawps"}
    assert all(layouts[name] == name for name in ("gsm8k", "gsm_hard", "gsm_plus", "gsm_symbolic", "math500", "svamp"))


def test_the_benchmarks_of_programs(trained):
    files, bindings, rest = gin_config.parse_flags(header_command("code"))
    assert files == ["runs/code/config.gin", "experiments/evals/code.gin"]
    assert rest == ["--run_dir=runs/code", "--out=evals/code"]
    file = str(EXPERIMENTS / "evals" / "code.gin")
    evaluated = gin_config.load(Evaluate, [str(trained), file], bindings).value
    assert [(b.name, b.task, b.split, b.problems) for b in evaluated.chosen] == [
        ("humaneval", HumanEval("HumanEval.jsonl.gz"), "test", 0),
        ("mbpp", Mbpp("sanitized-mbpp.json"), "test", 0),
    ]
    assert (evaluated.sources, evaluated.audits) == (("none", "untrained", "trained"), ())
    assert (evaluated.samples, evaluated.answers, evaluated.pass_at) == (10, 1, (1, 10))
    more = gin_config.load(Evaluate, [str(trained), file], ["SAMPLES=100", "PASS_AT=(1, 10, 100)"]).value
    assert (more.samples, more.pass_at) == (100, (1, 10, 100))
    with pytest.raises(UserError, match=r"pass@10 needs 10 answers to a problem, and there will be 5"):
        gin_config.load(Evaluate, [str(trained), file], ["SAMPLES=5"])


def test_a_benchmark_that_is_not_there(trained):
    files = [str(trained), str(EXPERIMENTS / "evals" / "benchmarks.gin")]
    with pytest.raises(UserError, match=r"Evaluate\.only: no benchmark is called 'gsm9k'; did you mean 'gsm8k'\?"):
        gin_config.load(Evaluate, files, ["Evaluate.only=('gsm9k',)"])


@pytest.mark.slow
def test_every_benchmark_at_hand_end_to_end(shared_data, tmp_path):
    """16 problems of each file, a tiny random model with the Qwen2.5 tokenizer: real text, real lengths."""
    flags = [f"--gin.{name.upper()}={shared_data / file}" for name, file in SHARED.items()]
    flags += [f"--gin.TEST={shared_data / SHARED['gsm8k']}", f"--gin.TRAIN={shared_data / 'gsm8k' / 'train.jsonl.gz'}"]
    flags += [f"--gin.TOKENIZER={shared_data / 'qwen2.5_tokenizer'}", f"--gin.Evaluate.only={tuple(SHARED)}"]
    flags += ["--gin.PROBLEMS=16", "--gin.Evaluate.batch_size=16", "--gin.Evaluate.samples=2"]
    files = [f"--gin_file={EXPERIMENTS / name}" for name in ("gsm8k/smoke.gin", "evals/benchmarks.gin")]
    run("eval", *files, *flags, f"--out={tmp_path / 'out'}")
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert set(results["problems"]) == set(SHARED)
    for name, about in results["problems"].items():
        # MAWPS has no reference reasoning; of GSM8K the last step tells the answer, and random weights do not see it.
        assert about["without_reference"] == (0 if name == "gsm8k" else about["problems"] - about["left_out"])
    groups = {(group["benchmark"], group["source"], group["mode"]): group for group in results["groups"]}
    assert len(groups) == 2 * (4 * 2 + 7)
    for (name, _, mode), group in groups.items():
        about = results["problems"][name]
        assert group["problems"] == about["problems"] - about["left_out"] > 8
        assert group["answers"] == group["problems"] * (1 if mode == "greedy" else 2)
        assert group["disagreed"] <= group["compared"] == group["answers"]
        assert 0 < group["likelihood"]["value"] < 1e-3
