"""Commands for planners and their runs: eval, solve, export, replay, report."""

from argparse import ArgumentParser

from tracelift_jax.commands.command import Command, Given
from tracelift_jax.errors import UserError


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


def _export_arguments(sub: ArgumentParser) -> None:
    sub.add_argument("run_dir", metavar="RUN_DIR", help="a run directory of train, train-rm or sft")
    sub.add_argument("--out", required=True, help="the directory to write; it must be new or empty")
    sub.add_argument("--adapter", action="store_true", help="the adapter alone, in PEFT's format")


def _export(given: Given) -> None:
    from tracelift_jax.train.export import run_export

    if given.files:
        raise UserError("tracelift export: takes no --gin_file; the run directory knows its experiment")
    run_export(given.value, given.args.run_dir, given.args.out, given.args.adapter)


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


COMMANDS = {
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
    "report": Command(
        "write a page to look at runs: curves, what rewards are made of, settings, every trace; without network",
        "tracelift report runs/exec_only runs/tracelift --out=report.html",
        _report_arguments,
        _report,
        gin="none",
    ),
}
