"""The commands of `tracelift`: for each its arguments, what it does, and a row of `COMMANDS`.

What is heavy is imported by the command that needs it, so that `--help` and bad flags answer at once.
"""

import dataclasses
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, TypeVar

from tracelift_jax.errors import UserError

if TYPE_CHECKING:
    from tracelift_jax.gin_config import Loaded
    from tracelift_jax.train.run import RunDir

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Given:
    """What stands on the command line: gin's files and bindings, and the command's own arguments."""

    files: Sequence[str]
    bindings: Sequence[str]
    args: Namespace

    def load(
        self,
        kind: type[T],
        files: Sequence[str] | None = None,
        more: Sequence[str] = (),
        fill: Mapping[str, str] | None = None,
    ) -> "Loaded[T]":
        """An experiment of the files (None: those that were given) under the bindings and `more` of them."""
        from tracelift_jax import gin_config

        return gin_config.load(kind, self.files if files is None else files, [*self.bindings, *more], fill)

    def value(
        self,
        kind: type[T],
        files: Sequence[str] | None = None,
        more: Sequence[str] = (),
        fill: Mapping[str, str] | None = None,
    ) -> T:
        """`load` without the operative configuration."""
        return self.load(kind, files, more, fill).value


@dataclasses.dataclass(frozen=True)
class Command:
    """A row of the table.

    Attributes:
        what: it does, in half a sentence. example: to copy.
        arguments: adds its own to its parser.
        run: does it.
        gin: whether it can do without gin files, or takes no gin flags at all.
        processes: whether several may do it together.
    """

    what: str
    example: str
    arguments: Callable[[ArgumentParser], None]
    run: Callable[[Given], None]
    gin: Literal["needed", "optional", "none"] = "needed"
    processes: Literal["one", "several"] = "one"


# ----------------------------------------------------------------------------------------- sft, train-rm and train


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


# -------------------------------------------------------------------------------------------------------------- aot


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


# ------------------------------------------------------------------------------------------------------------- eval


def _eval_arguments(sub: ArgumentParser) -> None:
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


def _eval(given: Given) -> None:
    """The three uses of eval: a comparison, an evaluation into a directory, the held-out table of training."""
    from tracelift_jax import config, gin_config
    from tracelift_jax.evals.compare import run_compare
    from tracelift_jax.evals.evaluate import run_evaluation, with_flags
    from tracelift_jax.train.evaluate_runs import run_eval

    files, args = given.files, given.args
    if args.compare:
        if files or given.bindings or args.run_dir or args.executors:
            raise UserError("tracelift eval --compare: takes two evaluations and --out=DIR, and nothing else")
        first, second = args.compare
        run_compare(first, second, args.out)
    elif args.out:
        if not files:
            raise UserError("tracelift eval --out: give --gin_file=F, one of which binds config.Evaluate")
        loaded = given.load(config.Evaluate)
        evaluated = with_flags(loaded.value, args.run_dir, args.executors)
        run_evaluation(evaluated, loaded.operative, args.out, lambda file: gin_config.load(config.Train, [file]).value)
    elif args.executors:
        raise UserError("tracelift eval --executors: give --out=DIR too, and gin files that bind config.Evaluate")
    else:
        if bool(files) == bool(args.run_dir):
            raise UserError(
                "tracelift eval: give --run_dir=D (repeatable) for trained planners, or --gin_file=F for an untrained"
            )
        run_eval(lambda paths: given.value(config.Train, paths), files, args.run_dir, changed=bool(given.bindings))


# ------------------------------------------------------------------------------------------------------------ solve


def _solve_arguments(sub: ArgumentParser) -> None:
    sub.add_argument(
        "problem", nargs="*", help="the problem's text, repeatable; - reads one a line from standard input"
    )
    sub.add_argument("--run_dir", help="a planner's run directory: its newest checkpoint solves")
    sub.add_argument(
        "--answer",
        action="append",
        default=[],
        help="a problem's right answer, of a program what it prints; one each or none",
    )
    sub.add_argument("--samples", type=int, metavar="N", help="draw N traces as in training, not one greedy one")
    sub.add_argument("--seed", type=int, help="of the samples; 0 if not given")
    sub.add_argument("--json", action="store_true", help="print one JSON object a problem and nothing else")


def _solve(given: Given) -> None:
    from tracelift_jax.config import Train
    from tracelift_jax.train.solve import Asked, run_solve

    files, args = given.files, given.args
    if bool(files) == bool(args.run_dir):
        raise UserError("tracelift solve: give --run_dir=D for a trained planner, or --gin_file=F for an untrained")
    asked = Asked(args.problem, args.answer, args.samples, args.seed, args.json)
    run_solve(lambda paths: given.value(Train, paths), files, args.run_dir, asked)


# ----------------------------------------------------------------------------------------------------------- export


def _export_arguments(sub: ArgumentParser) -> None:
    sub.add_argument("run_dir", metavar="RUN_DIR", help="a run directory of train, train-rm or sft")
    sub.add_argument("--out", required=True, help="the directory to write; it must be new or empty")
    sub.add_argument("--adapter", action="store_true", help="the adapter alone, in PEFT's format")


def _export(given: Given) -> None:
    from tracelift_jax.train.export import run_export

    if given.files:
        raise UserError("tracelift export: takes no --gin_file; the run directory knows its experiment")
    run_export(given.value, given.args.run_dir, given.args.out, given.args.adapter)


# ----------------------------------------------------------------------------------------------------------- replay


def _replay_arguments(sub: ArgumentParser) -> None:
    sub.add_argument("run_dir", metavar="RUN_DIR", help="a run directory of train")
    sub.add_argument("--step", type=int, action="append", default=[], metavar="N", help="a step, repeatable; else all")
    sub.add_argument("--rescore", action="store_true", help="grades and likelihoods too, from the frozen weights")
    sub.add_argument("--rerun", action="store_true", help="run the answers too, where they are programs")
    sub.add_argument("--json", action="store_true", help="print one JSON object, with every difference")


def _replay(given: Given) -> None:
    """Exits with 1 where something differs."""
    from tracelift_jax.config import Train
    from tracelift_jax.replay.command import Asked, run_replay

    args = given.args
    if given.files:
        raise UserError("tracelift replay: takes no --gin_file; the run directory knows its experiment")
    asked = Asked(args.run_dir, args.step, args.rescore, args.rerun, args.json)
    if not run_replay(lambda paths: given.value(Train, paths), asked):
        raise SystemExit(1)


# -------------------------------------------------------------------------------------------------- score and serve


def _score_arguments(sub: ArgumentParser) -> None:
    sub.add_argument("source", metavar="IN.jsonl", help='lines of {"problem", "reasoning", ...}; may be gzip')
    sub.add_argument("target", metavar="OUT.jsonl", help='the same lines with "score", "total" and "rubric"')


def _score(given: Given) -> None:
    from tracelift_jax.config import Scorer
    from tracelift_jax.serve.files import run_score

    run_score(given.value(Scorer), given.args.source, given.args.target)


def _serve_arguments(sub: ArgumentParser) -> None:
    sub.add_argument("--rm", action="store_true", required=True, help="a reward model is what is served")
    sub.add_argument("--host", default="127.0.0.1", help="the address to listen on; 127.0.0.1 if not given")
    sub.add_argument("--port", type=int, default=8000, help="8000 if not given; 0 takes a free one")


def _serve(given: Given) -> None:
    from tracelift_jax.config import Scorer
    from tracelift_jax.serve.server import run_serve

    run_serve(given.value(Scorer), given.args.host, given.args.port)


# --------------------------------------------------------------------------- prepare, baseline, verify, build-groups


def _prepare_arguments(sub: ArgumentParser) -> None:
    sub.add_argument("--out", required=True, help="the directory to write OUT/NAME/1.0.0 into")


def _prepare(given: Given) -> None:
    from tracelift_jax.config import Prepare
    from tracelift_jax.groups.prepare import run_prepare

    # Files of tasks name what they define TASK, so that runs can be combined with any of them.
    run_prepare(given.value(Prepare, more=["config.Prepare.task=%TASK"]), given.args.out)


def _baseline_arguments(sub: ArgumentParser) -> None:
    sub.add_argument("--out", required=True, help="the file to write, for Train.baseline = @BaselineFile()")
    sub.add_argument("--split", choices=("train", "test"), default="train", help="train if not given")
    sub.add_argument("--samples", type=int, default=16, metavar="N", help="answers a problem; 16 if not given")
    sub.add_argument("--batch_size", type=int, default=64, metavar="B", help="problems at a time; 64")


def _baseline(given: Given) -> None:
    from tracelift_jax.config import Train
    from tracelift_jax.evals.baseline import run_baseline

    args = given.args
    run_baseline(given.value(Train), args.out, args.split, args.samples, args.batch_size)


def _verify_arguments(sub: ArgumentParser) -> None:
    sub.add_argument(
        "files", nargs="+", metavar="FILE.jsonl", help="an answer a line, or reward records of a run; may be gzip"
    )
    sub.add_argument("--answer", default="prediction", metavar="FIELD", help='"prediction" if not given')
    sub.add_argument("--reference", default="reference", metavar="FIELD", help='"reference" if not given')
    sub.add_argument("--kind", choices=["number", "latex"], default="number", help="number if not given")
    sub.add_argument("--json", action="store_true", help="print one JSON object, with every disagreement")
    sub.add_argument("--show", type=int, default=20, metavar="N", help="disagreements shown; 20 if not given")


def _verify(given: Given) -> None:
    from tracelift_jax.rollout.crosscheck import Check, run_verify

    args = given.args
    run_verify(Check(args.files, args.answer, args.reference, args.kind, args.json, args.show))


def _build_arguments(sub: ArgumentParser) -> None:
    sub.add_argument("seeds", metavar="SEEDS.jsonl", help="problems and solutions, of math or programs; may be gzip")
    sub.add_argument("--out", required=True, help="the JSONL file to write or to continue, a group a line")
    # Without defaults: the recipe of a gin file has them too.
    sub.add_argument("--negatives", type=int, metavar="N", help="drop groups with fewer; 4 if not given")
    sub.add_argument("--most", type=int, metavar="N", help="flawed traces a group at most; 8 if not given")
    sub.add_argument("--seed", type=int, help="of the flaws; 0 if not given")
    sub.add_argument("--summary", help="a JSON file for counts by flaw kind, drops by reason and what servers cost")
    sub.add_argument("--cache", help="the file in which answers of servers are kept; OUT.answers if not given")


def _build_groups(given: Given) -> None:
    """Builds by the recipe of the gin files, if there are any; flags win over it."""
    from tracelift_jax.groups.build import Recipe, run_build_groups

    args = given.args
    recipe = given.value(Recipe) if given.files or given.bindings else Recipe()
    flags = {name: getattr(args, name) for name in ("negatives", "most", "seed")}
    recipe = dataclasses.replace(recipe, **{name: value for name, value in flags.items() if value is not None})
    run_build_groups(args.seeds, args.out, recipe, args.summary, args.cache)


# ----------------------------------------------------------------------------------------------------------- report


def _report_arguments(sub: ArgumentParser) -> None:
    sub.add_argument("run_dirs", nargs="+", metavar="RUN_DIR", help="a run directory of train, train-rm or sft")
    sub.add_argument("--out", metavar="FILE", help="the page to write; the first run's report.html if not given")
    sub.add_argument(
        "--most_traces",
        type=int,
        default=30_000,
        metavar="N",
        help="traces in the page, of all runs together; 30000 if not given. Of more, evenly chosen steps",
    )


def _report(given: Given) -> None:
    from tracelift_jax.report.command import run_report

    run_report(given.args.run_dirs, given.args.out, given.args.most_traces)


# ---------------------------------------------------------------------------------------------------------- the table

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
    "eval": Command(
        "evaluate planners: as in training; into a directory, on any benchmarks and before any executors; compare",
        "tracelift eval --run_dir=runs/exec_only --run_dir=runs/tracelift\n"
        "  tracelift eval --gin_file=experiments/dial/tracelift.gin --gin_file=experiments/evals/dial.gin "
        "--run_dir=runs/tracelift --out=evals/dial\n"
        "  tracelift eval --compare evals/dial/untrained evals/dial/tracelift",
        _eval_arguments,
        _eval,
        gin="optional",
    ),
    "solve": Command(
        "solve a problem: the reasoning, the executor's answer with and without it, the rubric scores",
        'tracelift solve --gin_file=experiments/dial/tracelift.gin "The dial shows 7. Ann turns it up 5. '
        'Cal doubles it. What does it show now?"',
        _solve_arguments,
        _solve,
        gin="optional",
    ),
    "export": Command(
        "write what a run trained as a directory that transformers, or peft, loads",
        "tracelift export runs/tracelift --out=exports/planner",
        _export_arguments,
        _export,
        gin="optional",
    ),
    "replay": Command(
        "compute the rewards of a run again from its records, and say which agree bit for bit",
        "tracelift replay runs/tracelift --step=3 --rescore",
        _replay_arguments,
        _replay,
        gin="optional",
    ),
    "score": Command(
        "grade problems and reasonings of a file with a reward model; started again, it continues",
        "tracelift score in.jsonl out.jsonl --gin_file=experiments/dial/score.gin",
        _score_arguments,
        _score,
    ),
    "serve": Command(
        "serve a reward model over HTTP: POST /score, GET /health, GET /metrics",
        "tracelift serve --rm --gin_file=experiments/dial/score.gin",
        _serve_arguments,
        _serve,
    ),
    "prepare": Command(
        "write the problems or groups of files as a tensorflow-datasets data set in array_record",
        "tracelift prepare --gin_file=experiments/tasks/svamp.gin --gin.TEST=SVAMP.json --out=prepared",
        _prepare_arguments,
        _prepare,
    ),
    "baseline": Command(
        "measure the executor without reasoning on a whole split, for train; started again, it continues",
        "tracelift baseline --gin_file=experiments/dial/tracelift.gin --out=baselines/dial.jsonl",
        _baseline_arguments,
        _baseline,
    ),
    "verify": Command(
        "judge answers in files both exactly and as a rollout does, and list where the two differ",
        "tracelift verify predictions.jsonl --answer=prediction --reference=reference\n"
        "  tracelift verify 'runs/tracelift/traces/*.jsonl' --json",
        _verify_arguments,
        _verify,
        gin="none",
    ),
    "report": Command(
        "write a page to look at runs: curves, what rewards are made of, settings, every trace; without network",
        "tracelift report runs/exec_only runs/tracelift --out=report.html",
        _report_arguments,
        _report,
        gin="none",
    ),
    "build-groups": Command(
        "build same-problem groups with flawed traces from solved problems; started again, it continues",
        "tracelift build-groups train.jsonl.gz --out=groups.jsonl --summary=groups.json",
        _build_arguments,
        _build_groups,
        gin="optional",
    ),
}
