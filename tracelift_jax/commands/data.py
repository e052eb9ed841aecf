"""Commands for problems, groups and answers: prepare, baseline, verify, build-groups."""

import dataclasses
from argparse import ArgumentParser

from tracelift_jax.commands.command import Command, Given


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


COMMANDS = {
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
    "build-groups": Command(
        "build same-problem groups with flawed traces from solved problems; started again, it continues",
        "tracelift build-groups train.jsonl.gz --out=groups.jsonl --summary=groups.json",
        _build_arguments,
        _build_groups,
        gin="optional",
    ),
}
