"""A tiny evaluation of programs as a gin file, before an executor on a server that writes known ones."""

from pathlib import Path

from chat_service import Asked
from served import SERVER_GIN, reasoning_in
from tiny import write_gin

from tracelift_jax.config import DialTask
from tracelift_jax.tasks.dial_code import program_for

TASK = DialTask(min_ops=1, max_ops=2, max_distractors=0, train_size=6, test_size=11)
TRAIN = """
config.Roles.task = @config.DialCode()
config.DialCode.task = @config.DialTask()
config.Roles.sandbox = @config.SandboxConfig()
config.SandboxConfig.limits = @config.Limits()
config.Limits.seconds = 20.0
"""
EVALS = """
config.DialTask.test_size = 11
config.Roles.reward_model = None
config.RewardConfig.kind = 'exec_only'
config.Evaluate.train = @config.Train()
config.Evaluate.benchmarks = (@numbers/config.Benchmark(), @programs/config.Benchmark())
numbers/config.Benchmark.name = 'numbers'
numbers/config.Benchmark.task = @config.DialTask()
programs/config.Benchmark.name = 'programs'
programs/config.Benchmark.task = @config.DialCode()
config.Evaluate.only = ('programs',)
config.Evaluate.sources = ('none', 'reference')
config.Evaluate.audits = ('other',)
config.Evaluate.samples = 2
config.Evaluate.batch_size = 4
"""


def write_programs(folder: Path) -> Path:
    """`folder/programs.gin`: eleven problems in batches of four; and `folder/programs_train.gin`, the training."""
    write_gin(folder, TRAIN).rename(folder / "programs_train.gin")
    return write_gin(folder, TRAIN + EVALS).rename(folder / "programs.gin")


def flags(gin: Path, url: str, *more: str) -> tuple[str, ...]:
    """The evaluation with its executor at `url`."""
    files = (f"--gin_file={gin}", f"--gin_file={SERVER_GIN}")
    return (*files, f"--gin.URL={url}", "--gin.EXECUTOR=scripted", "--gin.ExecutorServer.backoff=0.01", *more)


def last_step(asked: Asked, number: int) -> str:
    """A program for the last step of the reasoning; alone it prints another digit in each sample."""
    reasoning = reasoning_in(asked.prompt)
    return f"print({3 + number})" if reasoning is None else f"```python\n{program_for(reasoning)}\n```"
