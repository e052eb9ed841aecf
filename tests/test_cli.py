"""The command line: whatever is wrong with the input is one line that says what and where, and exit code 2."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from tiny import command, run, start, write_gin, write_models

from tracelift_jax import config, gin_config
from tracelift_jax.train.run import RunDir


@pytest.fixture(scope="module")
def gin(tmp_path_factory) -> Path:
    return write_gin(write_models(tmp_path_factory.mktemp("models")))


@pytest.fixture
def run_dir(tmp_path) -> Path:
    return tmp_path / "run"


def refused(*arguments) -> str:
    """The one line that `tracelift ARGUMENTS` leaves with."""
    outcome = command(*arguments)
    assert outcome.code == 2, outcome
    [line] = outcome.errors.splitlines()
    assert line.startswith("tracelift: ")
    return line.removeprefix("tracelift: ")


def refused_train(gin: Path, run_dir: Path, *more: str) -> str:
    line = refused("train", f"--gin_file={gin}", f"--run_dir={run_dir}", *more)
    assert not (run_dir / "checkpoints").exists()
    return line


def test_a_gin_file_that_is_not_there(run_dir, tmp_path):
    line = refused_train(tmp_path / "none.gin", run_dir)
    assert str(tmp_path / "none.gin") in line
    assert not run_dir.exists()


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ("config.Train.batch_size = 4", "config.Train.batch_sice = 4", ["batch_sice", "did you mean 'batch_size'"]),
        ("config.Train.batch_size = 4", "config.Train.batch_size = '4'", ["Train.batch_size", "expected int, got '4'"]),
        ("config.Schedule.steps = %STEPS", "config.Schedule.steps = %STEP", ["STEP"]),
        ("config.Train.batch_size = 4", "config.Train.batch_size = 4 4", []),
        ("config.Train.batch_size = 4", "config.Training.batch_size = 4", ["Training"]),
    ],
)
def test_a_mistake_in_a_gin_file_is_told_with_its_line(gin, run_dir, tmp_path, old, new, parts):
    lines = gin.read_text().splitlines()
    number = lines.index(old)
    lines[number] = new
    wrong = tmp_path / "wrong.gin"
    wrong.write_text("\n".join(lines) + "\n")
    line = refused_train(wrong, run_dir)
    for part in parts:
        assert part in line
    assert f"{wrong}:{number + 1}" in line
    assert not run_dir.exists()


@pytest.mark.parametrize(
    ("flag", "parts"),
    [
        ("--gin.STEP=3", ["--gin.STEP", "did you mean 'STEPS'"]),
        ("--gin.Train.batch_sice=8", ["--gin.Train.batch_sice", "did you mean 'batch_size'"]),
        ("--gin.Train.batch_size=many", ["--gin.Train.batch_size", "expected int, got 'many'"]),
        (
            "--gin.OptimizerConfig.accumulate=3",
            ["Train.batch_size must be a multiple of OptimizerConfig"],
        ),
        ("--stop_after=0", ["--stop_after must be at least 1, got 0"]),
    ],
)
def test_a_mistake_on_the_command_line_is_told_with_its_flag(gin, run_dir, flag, parts):
    line = refused_train(gin, run_dir, flag)
    for part in parts:
        assert part in line
    assert not run_dir.exists()


@pytest.mark.parametrize("name", ["sft", "train-rm", "train"])
def test_no_gin_file(name, run_dir):
    line = refused(name, f"--run_dir={run_dir}")
    assert line.startswith(
        f"tracelift {name}: give --gin_file=F, for example: tracelift {name} --gin_file=experiments/"
    )
    assert not run_dir.exists()


def test_eval_of_nothing():
    assert refused("eval").startswith("tracelift eval: give --run_dir=D (repeatable)")


def test_eval_of_a_directory_without_a_run(tmp_path):
    assert refused("eval", f"--run_dir={tmp_path}").startswith(f"{tmp_path}: holds no run (no config.gin)")


def begin(gin: Path, run_dir: Path) -> None:
    """A run directory as the first moment of a run leaves it."""
    loaded = gin_config.load(config.Train, [str(gin)])
    RunDir(run_dir, loaded.value, loaded.operative).begin()


def test_eval_of_a_run_without_a_checkpoint(gin, run_dir):
    begin(gin, run_dir)
    assert refused("eval", f"--run_dir={run_dir}") == f"{run_dir}: no checkpoint there; let the run train first"


def test_a_refused_run_claims_no_directory(gin, run_dir):
    assert refused_train(gin, run_dir, "--gin.Roles.tokenizer=nowhere") == "nowhere: no such tokenizer directory"
    assert not run_dir.exists()


def test_a_run_directory_of_another_experiment(gin, run_dir):
    begin(gin, run_dir)
    before = (run_dir / "config.json").read_text()
    line = refused_train(gin, run_dir, "--gin.Train.seed=3")
    assert line == f"{run_dir}: holds another experiment (seed: 0 and 3); choose another --run_dir"
    assert (run_dir / "config.json").read_text() == before


def test_fresh_refuses_what_exists(gin, run_dir):
    begin(gin, run_dir)
    line = refused_train(gin, run_dir, "--fresh")
    assert line == f"{run_dir}: exists, and --fresh was given; remove it or choose another --run_dir"


def test_a_directory_of_something_else(gin, tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    assert refused_train(gin, tmp_path) == f"{tmp_path}: is not empty and holds no run; choose another --run_dir"
    line = refused("train", f"--gin_file={gin}", f"--run_dir={tmp_path / 'letter.txt'}")
    assert line == f"{tmp_path / 'letter.txt'}: is a file; choose another --run_dir"


def test_a_config_that_is_not_json(gin, run_dir):
    begin(gin, run_dir)
    (run_dir / "config.json").write_text("{")
    assert refused_train(gin, run_dir).startswith(f"{run_dir / 'config.json'}: not JSON (")


def test_a_row_without_a_question(gin, run_dir, tmp_path):
    rows = [{"question": "1 + 1?", "answer": "two\n#### 2"}, {"answer": "#### 3"}]
    data = tmp_path / "train.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = "\n".join(line for line in gin.read_text().splitlines() if "DialTask" not in line)
    file = tmp_path / "rows.gin"
    file.write_text(
        f"{text}\nconfig.Roles.task = @config.JsonlTask()\n"
        f"config.JsonlTask.train = '{data}'\nconfig.JsonlTask.test = '{data}'\nconfig.JsonlTask.fields = 'gsm8k'\n"
    )
    assert refused_train(file, run_dir) == f'{data}:2: no "question"; every row needs a non-empty text field "question"'


def test_a_tokenizer_without_an_end_token(gin, run_dir, tmp_path):
    folder = Path(shutil.copytree(gin.parent / "base", tmp_path / "tokenizer"))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["eos_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    line = refused_train(gin, run_dir, f"--gin.Roles.tokenizer={folder}")
    assert line.startswith(f"{folder}: ") and "end token" in line


def test_a_model_directory_that_is_not_there(gin, run_dir):
    line = refused_train(gin, run_dir, "--gin.base/Model.path=nowhere", f"--gin.Roles.tokenizer={gin.parent / 'base'}")
    assert line == "nowhere/config.json: no such file; give a Hugging Face model directory"


def test_a_batch_that_does_not_fit_the_mesh(gin, run_dir):
    text = ("--gin.Roles.mesh=@config.MeshConfig()", "--gin.MeshConfig.data=3")
    assert refused_train(gin, run_dir, *text) == "MeshConfig: data=3 x fsdp=1 x tensor=1 is not 1 devices"


COMMANDS = {
    # name: how its example begins, and what its help must tell of
    "sft": ("--gin_file", "--run_dir"),
    "train-rm": ("--gin_file", "--run_dir"),
    "train": ("--gin_file", "--run_dir"),
    "eval": ("--run_dir", "--run_dir"),
    "solve": ("--gin_file", "--run_dir"),
    "export": ("runs/", "RUN_DIR"),
    "replay": ("runs/", "--rescore"),
    "score": ("in.jsonl out.jsonl --gin_file", "OUT.jsonl"),
    "serve": ("--rm --gin_file", "--port"),
    "prepare": ("--gin_file", "--out"),
    "baseline": ("--gin_file", "--samples"),
    "verify": ("predictions.jsonl", "--reference"),
    "report": ("runs/", "--most_traces"),
    "build-groups": ("train.jsonl.gz --out", "--negatives"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_an_example(name, capsys):
    assert command(name, "--help").code == 0
    shown = capsys.readouterr().out
    example = shown.partition("example:\n")[2].strip()
    begins, told = COMMANDS[name]
    assert example.startswith(f"tracelift {name} {begins}")
    assert ("--gin_file=F" in shown) == (name not in ("verify", "report"))
    assert told in shown


def test_help_lists_the_commands(capsys):
    assert command("--help").code == 0
    shown = capsys.readouterr().out
    for name in COMMANDS:
        assert f"\n    {name} " in shown or f"\n    {name}\n" in shown


def test_a_real_process_says_one_line_and_exits_with_2(gin, run_dir):
    process = start("train", f"--gin_file={gin}", f"--run_dir={run_dir}", "--gin.STEP=3")
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert out == ""
    [line] = errors.splitlines()
    assert line.startswith("tracelift: --gin.STEP")


@pytest.mark.slow
def test_eval_of_an_untrained_planner(gin, capsys):
    run("eval", f"--gin_file={gin}")
    shown = capsys.readouterr().out
    assert "untrained" in shown
    assert "3 held-out problems" in shown


def test_the_experiments_that_ship_load():
    folder = Path(__file__).resolve().parents[1] / "experiments" / "dial"
    kinds = {
        name: gin_config.load(config.Train, [str(folder / f"{name}.gin")]).value.roles.reward.kind
        for name in ("exec_only", "rm_only", "uplift_only", "tracelift")
    }
    assert all(name == kind for name, kind in kinds.items())
    assert dataclasses.is_dataclass(gin_config.load(config.Sft, [str(folder / "base.gin")]).value)
    assert dataclasses.is_dataclass(gin_config.load(config.TrainRm, [str(folder / "rm.gin")]).value)
