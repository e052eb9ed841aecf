"""Building same-problem groups from solved problems: the seed's own solution, and flawed versions of it.

`build_groups` goes through the seeds in their order and appends one whole line a group. A build that was interrupted
makes the groups that are there again, compares, and goes on behind them: it ends with the same file. Writers of flawed
traces and graders can be mixed: the engine, which needs no model, and OpenAI-compatible servers, whose answers are kept
on disk. What a group is depends on its problem, its id, the settings and those answers alone.
"""

import contextlib
import dataclasses
import json
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from tracelift_jax.checked import check_types, require
from tracelift_jax.errors import UserError
from tracelift_jax.groups import arithmetic_flaws, code_flaws
from tracelift_jax.groups.build_progress import Bar
from tracelift_jax.groups.chat_server import ChatServer
from tracelift_jax.groups.engine import Engine
from tracelift_jax.groups.filters import MIN_POSITIVE, Filter, leaks_code
from tracelift_jax.groups.group_file import GroupFile
from tracelift_jax.groups.schema import POSITIVE, Group, RubricName, Trace
from tracelift_jax.groups.seeds import Seed, read_seeds

ENGINES: dict[RubricName, Engine] = {"math": arithmetic_flaws.ENGINE, "code": code_flaws.ENGINE}
FLAW_KINDS = tuple(dict.fromkeys(kind for engine in ENGINES.values() for kind in engine.kinds))
LEAKING = "code_dumped"
"""The kind of flaw that leaks code by its nature."""

_MOST_KINDS = max(len(engine.kinds) for engine in ENGINES.values())


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How groups are made.

    Attributes:
        negatives: a group with fewer flawed traces is dropped. most: flawed traces a group at most; their kinds differ.
        seed: of the flaws.
        writers: of the flawed traces. The kinds are dealt out among them, and the engine fills what servers leave.
        grader: of the traces. The engine grades by what it knows of a flaw; a server grades every flawed trace, and
            positives of programs, whoever wrote them.
        drop_leaks: whether traces of programs that have code in them are dropped.
    """

    negatives: int = 4
    most: int = 8
    seed: int = 0
    writers: tuple[Literal["engine"] | ChatServer, ...] = ("engine",)
    grader: Literal["engine"] | ChatServer = "engine"
    drop_leaks: bool = False

    def __post_init__(self) -> None:
        check_types(self)
        require(self.negatives >= 1, f"Recipe.negatives (--negatives) must be at least 1, got {self.negatives}")
        require(
            self.negatives <= self.most <= _MOST_KINDS,
            f"Recipe.most (--most) must be from Recipe.negatives ({self.negatives}) to {_MOST_KINDS}, got {self.most}",
        )
        require(len(self.writers) >= 1, "Recipe.writers must not be empty")
        require(len(set(self.writers)) == len(self.writers), "Recipe.writers: two of them are the same")

    @property
    def servers(self) -> tuple[ChatServer, ...]:
        """The servers among writers and grader, each once."""
        return tuple(dict.fromkeys(one for one in (*self.writers, self.grader) if isinstance(one, ChatServer)))

    def kinds(self, rubric_name: RubricName) -> tuple[str, ...]:
        """The kinds of flaws that groups of a rubric may have."""
        return tuple(kind for kind in ENGINES[rubric_name].kinds if not (self.drop_leaks and kind == LEAKING))


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a seed.

    Attributes:
        group: None where there is none.
        reason: why there is none. dropped: why each of the flawed traces was dropped that was.
        unfinished: what kept the seed from being made, through no fault of its own; "" where nothing did.
    """

    group: Group | None
    reason: str = ""
    dropped: tuple[str, ...] = ()
    unfinished: str = ""


@dataclasses.dataclass
class Summary:
    """What a build made, counted; filled while it goes on.

    Attributes:
        seeds: problems read. groups: groups in the file. negatives: flawed traces in them.
        kinds: flawed traces by kind. sizes: groups by their number of flawed traces.
        dropped: seeds by reason. dropped_traces: flawed traces by reason.
        unfinished: seeds that wait for an answer, by what kept it; started again, the build makes them.
        resumed: groups that were there before. seconds: how long the build took.
        servers: what asking each server took, and what it cost.
    """

    seeds: int = 0
    groups: int = 0
    negatives: int = 0
    kinds: dict[str, int] = dataclasses.field(default_factory=dict)
    sizes: dict[str, int] = dataclasses.field(default_factory=dict)
    dropped: dict[str, int] = dataclasses.field(default_factory=dict)
    dropped_traces: dict[str, int] = dataclasses.field(default_factory=dict)
    unfinished: dict[str, int] = dataclasses.field(default_factory=dict)
    resumed: int = 0
    seconds: float = 0.0
    servers: list[Mapping[str, Any]] = dataclasses.field(default_factory=list)

    def count(self, outcome: Outcome) -> None:
        """Adds what became of one seed."""
        for reason in outcome.dropped:
            _add(self.dropped_traces, reason)
        if outcome.unfinished:
            _add(self.unfinished, outcome.unfinished)
        elif outcome.group is None:
            _add(self.dropped, outcome.reason)
        else:
            self.groups += 1
            self.negatives += len(outcome.group.negatives)
            _add(self.sizes, str(len(outcome.group.negatives)))
            for trace in outcome.group.negatives:
                _add(self.kinds, trace.negative_kind)


def _add(counts: dict[str, int], name: str) -> None:
    counts[name] = counts.get(name, 0) + 1


def start_group(seed: Seed, recipe: Recipe) -> Filter | str:
    """The positive of a seed, and what its flawed traces are held against; or why the seed is dropped."""
    text = ENGINES[seed.rubric_name].positive(seed)
    if not text:
        return "empty"
    if len(text) < MIN_POSITIVE:
        return "too short"
    if recipe.drop_leaks and leaks_code(text, seed):
        return "leaks code"
    return Filter(seed, text, recipe.kinds(seed.rubric_name), recipe.drop_leaks)


def engine_traces(wanted: Filter, kinds: tuple[str, ...], most: int, recipe: Recipe) -> list[Trace]:
    """At most `most` flawed traces that the engine makes, of distinct kinds out of `kinds`."""
    rng = random.Random(f"{recipe.seed}\0{wanted.seed.problem_id}")
    return ENGINES[wanted.seed.rubric_name].flaws(wanted.seed, wanted.positive, kinds, most, rng)


def sift(wanted: Filter, traces: Sequence[Trace]) -> tuple[list[Trace], tuple[str, ...]]:
    """The traces that are used, and why the others are not."""
    good: list[Trace] = []
    dropped = []
    for trace in traces:
        fault = wanted.fault(trace.reasoning, [other.reasoning for other in good])
        if fault:
            dropped.append(fault)
        else:
            good.append(trace)
    return good, tuple(dropped)


def end_group(
    seed: Seed, positive: Trace, negatives: Sequence[Trace], dropped: tuple[str, ...], recipe: Recipe
) -> Outcome:
    """The group of a seed, if there are enough flawed traces."""
    if len(negatives) < recipe.negatives:
        return Outcome(None, "too few negatives", dropped)
    group = Group(
        problem_id=seed.problem_id,
        source=seed.source,
        task_type=seed.task_type,
        problem=seed.problem,
        reference_solution=seed.reference,
        positives=(positive,),
        negatives=tuple(negatives),
        rubric_name=seed.rubric_name,
        tests=seed.tests,
    )
    return Outcome(group, dropped=dropped)


def make_group(seed: Seed, recipe: Recipe) -> Outcome:
    """What becomes of a seed where the engine alone writes and grades."""
    wanted = start_group(seed, recipe)
    if isinstance(wanted, str):
        return Outcome(None, wanted)
    negatives, dropped = sift(wanted, engine_traces(wanted, wanted.kinds, recipe.most, recipe))
    return end_group(seed, Trace(wanted.positive, POSITIVE), negatives, dropped, recipe)


def without_duplicates(problems: Sequence[Seed]) -> Iterator[tuple[Seed, bool]]:
    """Each problem with whether its statement came before."""
    seen: set[str] = set()
    for problem in problems:
        statement = " ".join(problem.problem.split())
        yield problem, statement in seen
        seen.add(statement)


def _build_by_engine(problems: Sequence[Seed], recipe: Recipe, take: Callable[[Outcome], None]) -> None:
    for problem, duplicate in without_duplicates(problems):
        take(Outcome(None, "duplicate") if duplicate else make_group(problem, recipe))


def _kinds(problems: Sequence[Seed], recipe: Recipe) -> tuple[str, ...]:
    """The kinds of flaws that these seeds may get."""
    kinds: dict[str, None] = {}
    names: dict[RubricName, None] = dict.fromkeys(problem.rubric_name for problem in problems)
    for name in names:
        there = recipe.kinds(name)
        require(
            len(there) >= recipe.negatives,
            f"--negatives={recipe.negatives} is more than the {len(there)} kinds of flaws that {name} problems have",
        )
        kinds |= dict.fromkeys(there)
    return tuple(kinds)


def build_groups(
    seeds: str | Path,
    out: str | Path,
    recipe: Recipe | None = None,
    summary: str | Path | None = None,
    cache: str | Path | None = None,
) -> Summary:
    """Builds the groups of a seed file; called again after an interruption, it goes on.

    Args:
        seeds: what `read_seeds` reads.
        out: the JSONL file to write, a group a line.
        recipe: how; the default one if not given.
        summary: a JSON file for what is returned.
        cache: the file in which the answers of servers are kept; "{out}.answers" if not given.

    Returns:
        What there is in the file now.

    Raises:
        UserError: a file cannot be read or written, a seed is malformed, `out` holds another build, or a server cannot
            be used. What servers answered until then is kept.
        KeyboardInterrupt: Ctrl-C. Where servers are asked, or SIGTERM, after the answers in flight have come.
    """
    recipe = Recipe() if recipe is None else recipe
    begin = time.monotonic()
    problems = read_seeds(seeds)
    kinds = dict.fromkeys(_kinds(problems, recipe), 0)
    file = GroupFile(Path(out), problems, gaps=bool(recipe.servers))
    counts = Summary(seeds=len(problems), resumed=len(file.ids), kinds=kinds)
    with contextlib.closing(file), Bar(len(problems)) as bar:

        def take(outcome: Outcome) -> None:
            if outcome.group is not None:
                file.add(outcome.group)
            counts.count(outcome)
            bar.advance()

        if recipe.servers:
            from tracelift_jax.groups.server_build import build_by_servers  # what it needs takes a while to import

            counts.servers = build_by_servers(problems, recipe, file, cache or f"{out}.answers", take, bar)
        else:
            file.open()
            _build_by_engine(problems, recipe, take)
        file.end(complete=not counts.unfinished)
    counts.sizes = dict(sorted(counts.sizes.items(), key=lambda item: int(item[0])))
    counts.seconds = round(time.monotonic() - begin, 1)
    if summary is not None:
        _write_summary(Path(summary), counts, recipe)
    return counts


def _write_summary(path: Path, counts: Summary, recipe: Recipe) -> None:
    content: dict[str, Any] = {**dataclasses.asdict(counts), "recipe": dataclasses.asdict(recipe)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from None


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {reason}" for reason, number in counts.items()) or "none"


def run_build_groups(seeds: str, out: str, recipe: Recipe, summary: str | None, cache: str | None) -> None:
    """`tracelift build-groups`: builds and says in a few lines what there is.

    Raises:
        UserError: as `build_groups`, and where seeds are unfinished.
    """
    console, errors = (
        Console(stderr=stderr, highlight=False, markup=False, soft_wrap=True) for stderr in (False, True)
    )
    try:
        counts = build_groups(seeds, out, recipe, summary, cache)
    except KeyboardInterrupt:
        errors.print(f"{out}: stopped; the same command goes on from here")
        raise
    console.print(f"{out}: {counts.groups} groups with {counts.negatives} flawed traces, of {counts.seeds} seeds")
    traces = f"; of flawed traces: {_listed(counts.dropped_traces)}" if counts.dropped_traces else ""
    there = f"{counts.resumed} groups were there before"
    console.print(f"dropped: {_listed(counts.dropped)}{traces}; {there}; {counts.seconds:.1f} s")
    for server in counts.servers:
        console.print(_cost(server))
    if counts.unfinished:
        waiting, reason = sum(counts.unfinished.values()), next(iter(counts.unfinished))
        raise UserError(f"{out}: {waiting} seeds are unfinished ({reason}); the same command goes on from here")


def _cost(server: Mapping[str, Any]) -> str:
    """What asking a server took, in a line."""
    price = ""
    if server["price_with_cached"]:
        price = f"; cost {server['price']:.4f}, with the cached {server['price_with_cached']:.4f}"
    requests = f"{server['requests']} requests, {server['retries']} of them retries, {server['cached']} cached"
    tokens = f"{server['prompt_tokens']} prompt and {server['completion_tokens']} completion tokens"
    return f"{server['role']} {server['model']} at {server['base_url']}: {requests}; {tokens}{price}"
