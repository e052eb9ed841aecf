"""`tracelift <command>`: reads gin files, runs an experiment, and turns bad input into one line and exit code 2."""

import argparse
import dataclasses
import logging
import os
import sys
import warnings
from collections.abc import Sequence

from tracelift_jax.errors import UserError

GIN_FILE = """\
  --gin_file=F        experiment file, repeatable; export has the run directory's
"""
BINDINGS = """\
  --gin.NAME=VALUE    a macro or binding on top of the files, repeatable: --gin.STEPS=20, --gin.Train.batch_size=8
"""
USAGE = f"Every command but verify takes\n{GIN_FILE}{BINDINGS}"

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
        "evaluate planners: as in training; into a directory, on any benchmarks and before any executors; compare",
        "tracelift eval --run_dir=runs/exec_only --run_dir=runs/tracelift\n"
        "  tracelift eval --gin_file=experiments/dial/tracelift.gin --gin_file=experiments/evals/dial.gin "
        "--run_dir=runs/tracelift --out=evals/dial\n"
        "  tracelift eval --compare evals/dial/untrained evals/dial/tracelift",
    ),
    "solve": (
        "solve a problem: the reasoning, the executor's answer with and without it, the rubric scores",
        'tracelift solve --gin_file=experiments/dial/tracelift.gin "The dial shows 7. Ann turns it up 5. '
        'Cal doubles it. What does it show now?"',
    ),
    "export": (
        "write what a run trained as a directory that transformers, or peft, loads",
        "tracelift export runs/tracelift --out=exports/planner",
    ),
    "score": (
        "grade problems and reasonings of a file with a reward model; started again, it continues",
        "tracelift score in.jsonl out.jsonl --gin_file=experiments/dial/score.gin",
    ),
    "serve": (
        "serve a reward model over HTTP: POST /score, GET /health, GET /metrics",
        "tracelift serve --rm --gin_file=experiments/dial/score.gin",
    ),
    "prepare": (
        "write the problems or groups of files as a tensorflow-datasets data set in array_record",
        "tracelift prepare --gin_file=experiments/tasks/svamp.gin --gin.TEST=SVAMP.json --out=prepared",
    ),
    "baseline": (
        "measure the executor without reasoning on a whole split, for train; started again, it continues",
        "tracelift baseline --gin_file=experiments/dial/tracelift.gin --out=baselines/dial.jsonl",
    ),
    "verify": (
        "judge answers in files both exactly and as a rollout does, and list where the two differ",
        "tracelift verify predictions.jsonl --answer=prediction --reference=reference\n"
        "  tracelift verify 'runs/tracelift/traces/*.jsonl' --json",
    ),
    "build-groups": (
        "build same-problem groups with flawed traces from solved problems; started again, it continues",
        "tracelift build-groups train.jsonl.gz --out=groups.jsonl --summary=groups.json",
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
            epilog=f"example:\n  {example}" if name == "verify" else f"{USAGE}\nexample:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        if name == "eval":
            _add_eval_arguments(sub)
        elif name == "solve":
            _add_solve_arguments(sub)
        elif name == "export":
            sub.add_argument("run_dir", metavar="RUN_DIR", help="a run directory of train, train-rm or sft")
            sub.add_argument("--out", required=True, help="the directory to write; it must be new or empty")
            sub.add_argument("--adapter", action="store_true", help="the adapter alone, in PEFT's format")
        elif name == "score":
            sub.add_argument("source", metavar="IN.jsonl", help='lines of {"problem", "reasoning", ...}; may be gzip')
            sub.add_argument("target", metavar="OUT.jsonl", help='the same lines with "score", "total" and "rubric"')
        elif name == "serve":
            sub.add_argument("--rm", action="store_true", required=True, help="a reward model is what is served")
            sub.add_argument("--host", default="127.0.0.1", help="the address to listen on; 127.0.0.1 if not given")
            sub.add_argument("--port", type=int, default=8000, help="8000 if not given; 0 takes a free one")
        elif name == "prepare":
            sub.add_argument("--out", required=True, help="the directory to write OUT/NAME/1.0.0 into")
        elif name == "baseline":
            sub.add_argument("--out", required=True, help="the file to write, for Train.baseline = @BaselineFile()")
            sub.add_argument("--split", choices=("train", "test"), default="train", help="train if not given")
            sub.add_argument("--samples", type=int, default=16, metavar="N", help="answers a problem; 16 if not given")
            sub.add_argument("--batch_size", type=int, default=64, metavar="B", help="problems at a time; 64")
        elif name == "verify":
            _add_verify_arguments(sub)
        elif name == "build-groups":
            _add_build_arguments(sub)
        else:
            sub.add_argument("--run_dir", required=True, help="where the run is kept; started again, it continues")
            sub.add_argument("--fresh", action="store_true", help="refuse a run directory that exists")
            sub.add_argument("--stop_after", type=int, metavar="N", help="leave with a checkpoint after N steps in all")
    return parser


def _add_eval_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--run_dir",
        action="append",
        default=[],
        metavar="D",
        help="a planner's run directory, repeatable; without --out its held-out table goes to its eval.json too",
    )
    sub.add_argument(
        "--out",
        metavar="DIR",
        help="evaluate what the gin files bind as config.Evaluate into DIR: records, results, report; started again, "
        "it continues",
    )
    sub.add_argument(
        "--executors",
        action="append",
        default=[],
        metavar="DIR",
        help="with --out: a model directory that answers too, repeatable",
    )
    sub.add_argument(
        "--compare",
        nargs=2,
        metavar=("A", "B"),
        help="paired differences, B less A, of two evaluations DIR or sources in them DIR/SOURCE; --out keeps them",
    )


def _add_solve_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "problem", nargs="*", help="the problem's text, repeatable; - reads one a line from standard input"
    )
    sub.add_argument("--run_dir", help="a planner's run directory: its newest checkpoint solves")
    sub.add_argument("--answer", action="append", default=[], help="a problem's right answer, one each or none")
    sub.add_argument("--samples", type=int, metavar="N", help="draw N traces as in training, not one greedy one")
    sub.add_argument("--seed", type=int, help="of the samples; 0 if not given")
    sub.add_argument("--json", action="store_true", help="print one JSON object a problem and nothing else")


def _add_verify_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "files", nargs="+", metavar="FILE.jsonl", help="an answer a line, or reward records of a run; may be gzip"
    )
    sub.add_argument("--answer", default="prediction", metavar="FIELD", help='"prediction" if not given')
    sub.add_argument("--reference", default="reference", metavar="FIELD", help='"reference" if not given')
    sub.add_argument("--kind", choices=["number", "latex"], default="number", help="number if not given")
    sub.add_argument("--json", action="store_true", help="print one JSON object, with every disagreement")
    sub.add_argument("--show", type=int, default=20, metavar="N", help="disagreements shown; 20 if not given")


def _add_build_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("seeds", metavar="SEEDS.jsonl", help="problems and solutions, of math or programs; may be gzip")
    sub.add_argument("--out", required=True, help="the JSONL file to write or to continue, a group a line")
    # Without defaults: the recipe of a gin file has them too.
    sub.add_argument("--negatives", type=int, metavar="N", help="drop groups with fewer; 4 if not given")
    sub.add_argument("--most", type=int, metavar="N", help="flawed traces a group at most; 8 if not given")
    sub.add_argument("--seed", type=int, help="of the flaws; 0 if not given")
    sub.add_argument("--summary", help="a JSON file for counts by flaw kind, drops by reason and what servers cost")
    sub.add_argument("--cache", help="the file in which answers of servers are kept; OUT.answers if not given")


def _build_groups(files: Sequence[str], bindings: Sequence[str], args: argparse.Namespace) -> None:
    """Builds by the recipe of the gin files, if there are any; flags win over it."""
    from tracelift_jax import gin_config
    from tracelift_jax.groups.build import Recipe, run_build_groups

    recipe = gin_config.load(Recipe, files, bindings).value if files or bindings else Recipe()
    flags = {name: getattr(args, name) for name in ("negatives", "most", "seed")}
    recipe = dataclasses.replace(recipe, **{name: value for name, value in flags.items() if value is not None})
    run_build_groups(args.seeds, args.out, recipe, args.summary, args.cache)


def _evaluate(files: Sequence[str], bindings: Sequence[str], args: argparse.Namespace) -> None:
    """The three uses of eval: a comparison, an evaluation into a directory, the held-out table of training."""
    from tracelift_jax import config, gin_config
    from tracelift_jax.evals.compare import run_compare
    from tracelift_jax.evals.evaluate import run_evaluation, with_flags
    from tracelift_jax.train.evaluate_runs import run_eval

    def load(paths: Sequence[str]) -> config.Train:
        return gin_config.load(config.Train, paths, bindings).value

    if args.compare:
        if files or bindings or args.run_dir or args.executors:
            raise UserError("tracelift eval --compare: takes two evaluations and --out=DIR, and nothing else")
        first, second = args.compare
        run_compare(first, second, args.out)
    elif args.out:
        if not files:
            raise UserError("tracelift eval --out: give --gin_file=F, one of which binds config.Evaluate")
        loaded = gin_config.load(config.Evaluate, files, bindings)
        evaluated = with_flags(loaded.value, args.run_dir, args.executors)
        run_evaluation(evaluated, loaded.operative, args.out, lambda file: gin_config.load(config.Train, [file]).value)
    elif args.executors:
        raise UserError("tracelift eval --executors: give --out=DIR too, and gin files that bind config.Evaluate")
    else:
        if bool(files) == bool(args.run_dir):
            raise UserError(
                "tracelift eval: give --run_dir=D (repeatable) for trained planners, or --gin_file=F for an untrained"
            )
        run_eval(load, files, args.run_dir, changed=bool(bindings))


def _start(command: str, files: Sequence[str], bindings: Sequence[str], args: argparse.Namespace) -> None:
    """Runs one command; heavy imports happen here, so that `--help` and bad flags answer at once."""
    if command == "build-groups":
        _build_groups(files, bindings, args)
        return
    if command == "eval":
        _evaluate(files, bindings, args)
        return
    if command == "verify":
        from tracelift_jax.rollout.crosscheck import Check, run_verify

        if files or bindings:
            raise UserError("tracelift verify: takes no --gin_file and no --gin.NAME; see its --help")
        run_verify(Check(args.files, args.answer, args.reference, args.kind, args.json, args.show))
        return
    from tracelift_jax import config, gin_config
    from tracelift_jax.groups.prepare import run_prepare
    from tracelift_jax.serve.files import run_score
    from tracelift_jax.serve.server import run_serve
    from tracelift_jax.train.export import run_export
    from tracelift_jax.train.planner_loop import run_train
    from tracelift_jax.train.reward_model import run_train_rm
    from tracelift_jax.train.run import RunDir
    from tracelift_jax.train.sft import run_sft
    from tracelift_jax.train.solve import Asked, run_solve

    def load(paths: Sequence[str]) -> config.Train:
        return gin_config.load(config.Train, paths, bindings).value

    if command == "solve":
        if bool(files) == bool(args.run_dir):
            raise UserError("tracelift solve: give --run_dir=D for a trained planner, or --gin_file=F for an untrained")
        run_solve(load, files, args.run_dir, Asked(args.problem, args.answer, args.samples, args.seed, args.json))
        return
    if command == "export":
        if files:
            raise UserError("tracelift export: takes no --gin_file; the run directory knows its experiment")

        def load_kind(kind, paths: Sequence[str]):
            return gin_config.load(kind, paths, bindings).value

        run_export(load_kind, args.run_dir, args.out, args.adapter)
        return
    if not files:
        raise UserError(f"tracelift {command}: give --gin_file=F, for example: {COMMANDS[command][1]}")
    if command == "prepare":
        # Files of tasks name what they define TASK, so that runs can be combined with any of them.
        run_prepare(gin_config.load(config.Prepare, files, [*bindings, "config.Prepare.task=%TASK"]).value, args.out)
        return
    if command == "baseline":
        from tracelift_jax.evals.baseline import run_baseline

        run_baseline(load(files), args.out, args.split, args.samples, args.batch_size)
        return
    if command in ("score", "serve"):
        scorer = gin_config.load(config.Scorer, files, bindings).value
        if command == "score":
            run_score(scorer, args.source, args.target)
        else:
            run_serve(scorer, args.host, args.port)
        return
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
    except KeyboardInterrupt:
        sys.exit(130)
