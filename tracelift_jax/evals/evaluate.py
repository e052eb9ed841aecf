"""`tracelift eval --out=DIR`: first all reasoning is written, then every executor answers, then it is counted.

    traces.jsonl      who wrote what, and its grade          units of `plan.TraceUnit`
    records.jsonl     who answered what to it                units of `plan.AnswerUnit`
    results.json, report.md, report.png                      from records.jsonl alone
    evaluation.json   what this is the evaluation of         timing.json   how long it took

A process that dies at any point loses no more than the unit it was in: the same command goes on there, and ends with
the same bytes. Planners are on the device one after the other, and so are executors with weights of their own.
"""

import dataclasses
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tracelift_jax.checked import to_jsonable
from tracelift_jax.errors import UserError
from tracelift_jax.evals.answers import Answers
from tracelift_jax.evals.executors import Candidate, other_executor, resident_executor
from tracelift_jax.evals.experiment import Evaluate, ExecutorModel, ServedExecutor
from tracelift_jax.evals.journal import PARTIAL, Header, Journal, to_json, write_whole
from tracelift_jax.evals.progress import Progress, Timing
from tracelift_jax.evals.report import markdown
from tracelift_jax.evals.results import make_results, read_records
from tracelift_jax.evals.served import resident_server, served_executor
from tracelift_jax.evals.show import draw, show
from tracelift_jax.evals.traces import Traces
from tracelift_jax.evals.work import Work, make_plan, read_baselines, read_problems
from tracelift_jax.models import build
from tracelift_jax.parallel.mesh import check_batch
from tracelift_jax.rollout.judging import Judge, open_judge
from tracelift_jax.rollout.reward_config import RewardConfig
from tracelift_jax.tasks.problem import Problem
from tracelift_jax.text.prompts import Pieces
from tracelift_jax.text.tokenizer import Tokenizer
from tracelift_jax.train.checkpoint import find_run
from tracelift_jax.train.planner_loop import Train
from tracelift_jax.train.roles import Loaded, Roles, load_roles

HEADER, TRACES, RECORDS, RESULTS = "evaluation.json", "traces.jsonl", "records.jsonl", "results.json"


def with_flags(config: Evaluate, runs: Sequence[str], executors: Sequence[str]) -> Evaluate:
    """The experiment with more trained planners, and more executors with the numerics of the base, by directory."""
    base = config.train.roles.base
    more = [
        ExecutorModel(name=Path(folder).resolve().name, model=dataclasses.replace(base, path=folder, grow=0))
        for folder in executors
    ]
    return dataclasses.replace(config, runs=(*config.runs, *runs), executors=(*config.executors, *more))


def _described(config: Evaluate) -> dict[str, Any]:
    """What of an experiment its records depend on: how they are counted may be asked another way."""
    return {name: value for name, value in to_jsonable(config).items() if name != "pass_at"}


def run_evaluation(config: Evaluate, operative: str, out: str, load_run: Callable[[str], Train]) -> None:
    """Evaluates, or goes on evaluating, into a directory, and prints a table.

    Args:
        operative: the experiment as a gin file. load_run: reads the gin file of a trained planner.

    Raises:
        UserError: something the experiment names is not there, programs are asked for and cannot be run here, or the
            directory holds something else.
    """
    path = Path(out)
    header = _look_at(path)
    header.compare("config", _described(config))
    problems = read_benchmarks(config)
    everything = itertools.chain.from_iterable(problems.values())
    # Before any weights, and until the last answer is judged, however that comes about.
    with open_judge(config.train.roles.sandbox, everything) as judge:
        work = begin(config, problems, judge, load_run)
        header.compare("problems", work.described())
        header.compare("resident", work.loaded.fingerprints)
        _make(path)
        header.check("config", _described(config))
        header.check("problems", work.described())
        header.check("resident", work.loaded.fingerprints)
        for name, (run, _) in work.runs.items():
            header.check(f"newest checkpoint of {name}", find_run(build.find(run))[1])
        flags = "".join(f"# --run_dir={run}\n" for run in config.runs)
        models = (executor.model.path for executor in config.executors if isinstance(executor, ExecutorModel))
        flags += "".join(f"# --executors={path}\n" for path in models)
        write_whole(path / "config.gin", (operative + flags).encode())
        timing = Timing(path / "timing.json")
        evaluate(work, header, path, timing)
    finish(path, timing, config.pass_at)


def _look_at(path: Path) -> Header:
    """The header of an output directory; nothing is written yet.

    Raises:
        UserError: the path is of something else.
    """
    if path.exists() and not path.is_dir():
        raise UserError(f"{path}: is a file; choose another --out")
    # A process that was killed at its very first file leaves no more than the beginning of it.
    others = [file for file in path.iterdir() if file.suffix != PARTIAL] if path.exists() else []
    if others and not (path / HEADER).exists():
        raise UserError(f"{path}: is not empty and holds no evaluation; choose another --out")
    return Header(path / HEADER)


def _make(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be made ({error.strerror})") from None


def read_benchmarks(config: Evaluate) -> dict[str, list[Problem]]:
    """The problems that each benchmark asks for, by its name.

    Raises:
        UserError: as `read_problems`.
    """
    return {benchmark.name: read_problems(benchmark) for benchmark in config.chosen}


def begin(
    config: Evaluate, problems: Mapping[str, Sequence[Problem]], judge: Judge, load_run: Callable[[str], Train]
) -> Work:
    """Reads all that an evaluation needs before its first unit; trained planners wait for their turn.

    Args:
        problems: as `read_benchmarks` gives them. judge: of answers to them. load_run: see `run_evaluation`.

    Raises:
        UserError: something the experiment names is not there.
    """
    runs = {
        name: (run, load_run(str(find_run(build.find(run))[0])))
        for name, run in zip(config.planners, config.runs, strict=True)
    }
    # Nothing is rewarded here, and who judges is known.
    roles = dataclasses.replace(config.train.roles, reward=RewardConfig(kind="exec_only", uplift="none"))
    loaded = load_roles(roles, config.train.loss.normalize)
    check_batch(loaded.mesh, "Evaluate.batch_size", config.batch_size)
    candidates = make_candidates(config, loaded)
    readers = [(loaded.pieces, loaded.roles), *(_reader(train.roles) for _, train in runs.values())]
    return Work(
        config=config,
        runs=runs,
        loaded=loaded,
        candidates={candidate.name: candidate for candidate in candidates},
        tasks={benchmark.name: benchmark.task for benchmark in config.chosen},
        problems=problems,
        plan=make_plan(config, problems, readers, candidates),
        baselines=read_baselines(config, loaded, problems),
        judge=judge,
    )


def make_candidates(config: Evaluate, loaded: Loaded) -> list[Candidate]:
    """The executors of an evaluation, in order."""
    longest = config.reasoning_tokens
    resident = resident_server(loaded, longest) if loaded.served else resident_executor(loaded, longest)
    others = [
        served_executor(executor, loaded, longest)
        if isinstance(executor, ServedExecutor)
        else other_executor(executor, loaded, longest)
        for executor in config.executors
    ]
    return [resident, *others] if config.resident else others


def _reader(roles: Roles) -> tuple[Pieces, Roles]:
    """The words of a trained planner, without its weights."""
    writers = build.folders(roles.planner_model or roles.base, roles.executor_model or roles.base)
    return Pieces(roles.prompts, Tokenizer.load(build.find(roles.tokenizer or roles.base.path), *writers)), roles


def evaluate(work: Work, header: Header, path: Path, timing: Timing) -> None:
    """Does what is left to do: `path/traces.jsonl`, then `path/records.jsonl`."""
    traces = Traces(work, header)
    answers = Answers(work, header, traces)
    trace_units, answer_units = list(work.plan.trace_units()), list(work.plan.answer_units())
    ids = {name: work.ids(name) for name in work.problems}
    written, drawn = Journal(path / TRACES), Journal(path / RECORDS)
    first = written.resume(
        (unit.lines(ids[unit.benchmark]) for unit in trace_units), lambda n, rows: traces.keep(trace_units[n], rows)
    )
    second = drawn.resume(
        (unit.lines(ids[unit.benchmark]) for unit in answer_units), lambda n, rows: answers.keep(answer_units[n], rows)
    )
    with Progress(len(trace_units) + len(answer_units), first + second) as progress:
        for unit in trace_units[first:]:
            progress.working_on(f"{unit.benchmark}: {unit.source} writes")
            began = time.perf_counter()
            rows = traces.write(unit)
            written.add(rows)
            traces.keep(unit, rows)
            if unit.drawn != "fixed" and not unit.audit:  # others only pass text on
                timing.add(f"{unit.source} writes, {unit.drawn}", len(unit.rows), time.perf_counter() - began)
            progress.done()
        traces.release()
        for unit in answer_units[second:]:
            progress.working_on(f"{unit.benchmark}: {unit.executor} answers, {unit.source}, {unit.mode}")
            began = time.perf_counter()
            rows = answers.draw(unit)
            drawn.add(rows)
            answers.keep(unit, rows)
            timing.add(f"{unit.executor} answers, {unit.mode}", len(unit.rows), time.perf_counter() - began)
            progress.done()


def finish(path: Path, timing: Timing, pass_at: Sequence[int] = ()) -> None:
    """Writes results and report from the records, and prints the table; `pass_at`: see `Evaluate`."""
    header = Header(path / HEADER)
    records = read_records(path / RECORDS)
    results = make_results(records, header.parts["problems"], pass_at)
    draw(results, path / "report.png")
    write_whole(path / "report.md", markdown(results).encode())
    write_whole(path / RESULTS, to_json(results))
    show(results, timing.throughput())
    print(f"{path / 'report.md'}, {path / 'report.png'}, {path / RESULTS}, {path / RECORDS}")
