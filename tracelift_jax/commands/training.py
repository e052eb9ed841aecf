"""Commands that train, or ask what training would take: sft, train-rm, train, aot."""

from argparse import ArgumentParser
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from tracelift_jax.commands.command import Command, Given
from tracelift_jax.errors import UserError

if TYPE_CHECKING:
    from tracelift_jax.train.run import RunDir

T = TypeVar("T")


def _run_arguments(sub: ArgumentParser) -> None:
    sub.add_argument("--run_dir", required=True, help="where the run is kept; started again, it continues")
    sub.add_argument("--fresh", action="store_true", help="refuse a run directory that exists")
    sub.add_argument("--stop_after", type=int, metavar="N", help="leave with a checkpoint after N steps in all")


def _run(given: Given, kind: type[T], train: "Callable[[T, RunDir, int | None], None]") -> None:
    from tracelift_jax.parallel import hosts, join
    from tracelift_jax.train.run import RunDir, console

    join.join()
    console.quiet = not hosts.first()  # all would say the same
    args = given.args
    if args.stop_after is not None and args.stop_after < 1:
        raise UserError(f"--stop_after must be at least 1, got {args.stop_after}")
    loaded = given.load(kind)
    train(loaded.value, RunDir(args.run_dir, loaded.value, loaded.operative, args.fresh), args.stop_after)


def _sft(given: Given) -> None:
    from tracelift_jax.train.sft import Sft, run_sft

    _run(given, Sft, run_sft)


def _train_rm(given: Given) -> None:
    from tracelift_jax.train.reward_model import TrainRm, run_train_rm

    _run(given, TrainRm, run_train_rm)


def _train(given: Given) -> None:
    from tracelift_jax.train.planner_loop import Train, run_train

    _run(given, Train, run_train)


def _aot_arguments(sub: ArgumentParser) -> None:
    sub.add_argument("--topology", required=True, metavar="T", help='"v5e:4x4" as jax has it, "v5p-16", or "h100-8"')
    kinds = ("train", "train-rm", "sft")
    sub.add_argument("--experiment", choices=kinds, default="train", help="what the files are for; train if not given")
    sub.add_argument("--json", action="store_true", help="print one JSON object and nothing else")


def _aot(given: Given) -> None:
    """Settings that jax reads when it starts come first; exits with 1 where the experiment does not fit."""
    from tracelift_jax.parallel import topology

    machine = topology.find(given.args.topology)
    topology.prepare()
    from tracelift_jax import config
    from tracelift_jax.train.aot_show import run_aot

    roots = {"train": config.Train, "train-rm": config.TrainRm, "sft": config.Sft}
    experiment = given.value(roots[given.args.experiment], fill=topology.UNREAD)
    if not run_aot(experiment, machine, topology.devices(machine), given.args.json):
        raise SystemExit(1)


COMMANDS = {
    "sft": Command(
        "teach a base to write reasoning, to answer with it, and to answer without it",
        "tracelift sft --gin_file=experiments/dial/base.gin --run_dir=runs/base",
        _run_arguments,
        _sft,
        processes="several",
    ),
    "train-rm": Command(
        "train a rubric reward model on same-problem groups",
        "tracelift train-rm --gin_file=experiments/dial/rm.gin --run_dir=runs/rm",
        _run_arguments,
        _train_rm,
        processes="several",
    ),
    "train": Command(
        "train a planner by executor-grounded rewards",
        "tracelift train --gin_file=experiments/dial/tracelift.gin --run_dir=runs/tracelift",
        _run_arguments,
        _train,
        processes="several",
    ),
    "aot": Command(
        "compile train for a machine that need not be there: does it fit, what takes how long; no weights are read",
        "tracelift aot --gin_file=experiments/shapes/qwen2.5_7b.gin --gin_file=experiments/gsm8k/tracelift.gin "
        "--gin_file=experiments/meshes/tensor4.gin --topology=v5e:4x4",
        _aot_arguments,
        _aot,
    ),
}
