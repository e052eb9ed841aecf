"""`tracelift <command>`: reads gin files, runs an experiment, and turns bad input into one line and exit code 2."""

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Sequence

from tracelift_jax.errors import UserError

USAGE = """\
Every command takes
  --gin_file=F        experiment file, repeatable
  --gin.NAME=VALUE    a macro or binding on top of the files, repeatable: --gin.STEPS=20, --gin.Train.batch_size=8
"""

COMMANDS = {
    "sft": (
        "teach a base to write reasoning, to answer with it, and to answer without it",
        "tracelift sft --gin_file=experiments/dial/base.gin --run_dir=runs/base",
    ),
    "train-rm": (
        "train a rubric reward model on same-problem groups",
        "tracelift train-rm --gin_file=experiments/dial/rm.gin --run_dir=runs/rm",
    ),
    "train": (
        "train a planner by executor-grounded rewards",
        "tracelift train --gin_file=experiments/dial/tracelift.gin --run_dir=runs/tracelift",
    ),
    "eval": (
        "evaluate planner + executor of runs, before and after training, on held-out problems",
        "tracelift eval --run_dir=runs/exec_only --run_dir=runs/tracelift",
    ),
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tracelift",
        description="Train reasoning planners with executor-grounded rewards.",
        epilog=USAGE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, (what, example) in COMMANDS.items():
        sub = commands.add_parser(
            name,
            help=what,
            description=what[0].upper() + what[1:] + ".",
            epilog=f"{USAGE}\nexample:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        if name == "eval":
            sub.add_argument(
                "--run_dir",
                action="append",
                default=[],
                help="a planner's run directory, repeatable; results go to its eval.json",
            )
        else:
            sub.add_argument("--run_dir", required=True, help="where the run is kept; started again, it continues")
            sub.add_argument("--fresh", action="store_true", help="refuse a run directory that exists")
            sub.add_argument("--stop_after", type=int, metavar="N", help="leave with a checkpoint after N steps in all")
    return parser


def _start(command: str, files: Sequence[str], bindings: Sequence[str], args: argparse.Namespace) -> None:
    """Runs one command; heavy imports happen here, so that `--help` and bad flags answer at once."""
    from tracelift_jax import config, gin_config
    from tracelift_jax.train.evaluate_runs import run_eval
    from tracelift_jax.train.planner_loop import run_train
    from tracelift_jax.train.reward_model import run_train_rm
    from tracelift_jax.train.run import RunDir
    from tracelift_jax.train.sft import run_sft

    if command == "eval":

        def load(paths: Sequence[str]) -> config.Train:
            return gin_config.load(config.Train, paths, bindings).value

        if bool(files) == bool(args.run_dir):
            raise UserError(
                "tracelift eval: give --run_dir=D (repeatable) for trained planners, or --gin_file=F for an untrained"
            )
        run_eval(load, files, args.run_dir, changed=bool(bindings))
        return
    if not files:
        raise UserError(f"tracelift {command}: give --gin_file=F, for example: {COMMANDS[command][1]}")
    if args.stop_after is not None and args.stop_after < 1:
        raise UserError(f"--stop_after must be at least 1, got {args.stop_after}")
    root, run = {
        "sft": (config.Sft, run_sft),
        "train-rm": (config.TrainRm, run_train_rm),
        "train": (config.Train, run_train),
    }[command]
    loaded = gin_config.load(root, files, bindings)
    run(loaded.value, RunDir(args.run_dir, loaded.value, loaded.operative, args.fresh), args.stop_after)


def main(argv: Sequence[str] | None = None) -> None:
    """The console script. Exits with 0 only when the work was done, 2 on bad input."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it warns that there is no torch; there need not be
    # orbax tells every detail of every save, and what is wrong with a damaged checkpoint besides raising it
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        from tracelift_jax.gin_config import parse_flags

        files, bindings, rest = parse_flags(arguments)
        args = _parser().parse_args(rest)
        _start(args.command, files, bindings, args)
    except UserError as error:
        print(f"tracelift: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        sys.exit(1)
