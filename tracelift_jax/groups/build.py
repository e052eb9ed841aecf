"""Building same-problem groups from solved problems: the seed's own solution, and flawed versions of it.

`build_groups` goes through the seeds in their order and appends one whole line a group, so that a build that was
interrupted goes on where it stopped and ends with the same file. What a group is depends on its problem, its id and the
settings alone.
"""

import collections
import dataclasses
import json
import os
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tracelift_jax.checked import check_types, require
from tracelift_jax.errors import UserError
from tracelift_jax.groups import arithmetic_flaws
from tracelift_jax.groups.engine import Engine
from tracelift_jax.groups.schema import POSITIVE, Group, RubricName, Trace
from tracelift_jax.groups.seeds import Seed, read_seeds

ENGINES: dict[RubricName, Engine] = {"math": arithmetic_flaws.ENGINE}
FLAW_KINDS = tuple(kind for engine in ENGINES.values() for kind in engine.kinds)

# Of characters: a shorter trace holds nothing to grade.
MIN_POSITIVE = 20
MIN_NEGATIVE = 12

_OPENING = b'{"problem_id": "'  # how every line begins

DROPS = ("empty", "duplicate", "too short", "too few negatives")
_COLUMNS = (TextColumn("building"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How groups are made.

    Attributes:
        negatives: a group with fewer flawed traces is dropped. most: flawed traces a group at most; their kinds differ.
        seed: of the flaws.
    """

    negatives: int = 4
    most: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        check_types(self)
        require(self.negatives >= 1, f"--negatives must be at least 1, got {self.negatives}")
        require(
            self.negatives <= self.most <= len(FLAW_KINDS),
            f"--most must be from --negatives ({self.negatives}) to {len(FLAW_KINDS)}, got {self.most}",
        )


@dataclasses.dataclass
class Summary:
    """What a build made, counted; filled while it goes on.

    Attributes:
        seeds: problems read. groups: groups in the file. negatives: flawed traces in them.
        kinds: flawed traces by kind. sizes: groups by their number of flawed traces. dropped: seeds by reason.
        resumed: groups that were there before. seconds: how long the build took.
    """

    seeds: int = 0
    groups: int = 0
    negatives: int = 0
    kinds: dict[str, int] = dataclasses.field(default_factory=lambda: dict.fromkeys(FLAW_KINDS, 0))
    sizes: dict[str, int] = dataclasses.field(default_factory=dict)
    dropped: dict[str, int] = dataclasses.field(default_factory=lambda: dict.fromkeys(DROPS, 0))
    resumed: int = 0
    seconds: float = 0.0

    def count(self, group: Group) -> None:
        """Adds one group."""
        self.groups += 1
        self.negatives += len(group.negatives)
        size = str(len(group.negatives))
        self.sizes[size] = self.sizes.get(size, 0) + 1
        for kind, number in collections.Counter(trace.negative_kind for trace in group.negatives).items():
            self.kinds[kind] += number


def make_group(seed: Seed, recipe: Recipe) -> Group | str:
    """The group of a seed, or why there is none: one of DROPS (never "duplicate")."""
    engine = ENGINES[seed.rubric_name]
    text = engine.positive(seed)
    if not text:
        return "empty"
    if len(text) < MIN_POSITIVE:
        return "too short"
    rng = random.Random(f"{recipe.seed}\0{seed.problem_id}")
    made = engine.flaws(seed, text, engine.kinds, recipe.most, rng)
    negatives = tuple(trace for trace in made if len(trace.reasoning) >= MIN_NEGATIVE)
    if len(negatives) < recipe.negatives:
        return "too few negatives"
    return Group(
        problem_id=seed.problem_id,
        source=seed.source,
        task_type=seed.task_type,
        problem=seed.problem,
        reference_solution=seed.reference,
        positives=(Trace(text, POSITIVE),),
        negatives=negatives,
        rubric_name=seed.rubric_name,
        tests=seed.tests,
    )


def _candidates(problems: Sequence[Seed], recipe: Recipe, written: set[str]) -> Iterator[tuple[str, Group | str]]:
    """The id of every problem with its group or why it has none; "" for those `written`, which are not made again."""
    seen: set[str] = set()
    for problem in problems:
        statement = " ".join(problem.problem.split())
        if statement in seen:
            yield problem.problem_id, "duplicate"
        elif problem.problem_id in written:
            yield problem.problem_id, ""
        else:
            yield problem.problem_id, make_group(problem, recipe)
        seen.add(statement)


def _line(group: Group) -> bytes:
    return json.dumps(group.to_json(), ensure_ascii=False).encode() + b"\n"


def _resume(out: Path, problems: Sequence[Seed], recipe: Recipe) -> list[Group]:
    """The groups already in `out`, from which half a line at the end is cut.

    Raises:
        UserError: the file holds something else than the beginning of this build.
    """
    if not out.exists():
        return []
    other = f"{out}: was not built from these seeds with these settings; remove it or choose another --out"
    try:
        data = out.read_bytes()
    except OSError as error:
        raise UserError(f"{out}: cannot be read ({error.strerror or error})") from None
    whole = data[: data.rfind(b"\n") + 1]
    lines = whole.splitlines(keepends=True)
    try:
        groups = [Group.from_json(json.loads(line)) for line in lines]
    except (UserError, ValueError):
        raise UserError(other) from None
    by_id = {problem.problem_id: i for i, problem in enumerate(problems)}
    places = [by_id.get(group.problem_id, -1) for group in groups]
    if -1 in places or places != sorted(set(places)):
        raise UserError(other)
    # A build is a function of seeds and settings, so the first and the last group tell whether both are the same.
    for index in {0, len(groups) - 1} if groups else ():
        again = make_group(problems[places[index]], recipe)
        if isinstance(again, str) or _line(again) != lines[index]:
            raise UserError(other)
    if not groups and data[: len(_OPENING)] != _OPENING[: len(data)]:
        raise UserError(other)
    if len(whole) < len(data):
        os.truncate(out, len(whole))
    return groups


def _open(out: Path) -> BinaryIO:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        return out.open("ab")
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror or error})") from None


def build_groups(
    seeds: str | Path, out: str | Path, recipe: Recipe | None = None, summary: str | Path | None = None
) -> Summary:
    """Builds the groups of a seed file; called again after an interruption, it goes on.

    Args:
        seeds: JSONL in GSM8K's format, gzip or not.
        out: the JSONL file to write, a group a line.
        recipe: how; the default one if not given.
        summary: a JSON file for what is returned.

    Returns:
        What there is in the file now.

    Raises:
        UserError: a file cannot be read or written, a seed is malformed, or `out` holds another build.
    """
    recipe = Recipe() if recipe is None else recipe
    begin = time.monotonic()
    out = Path(out)
    problems = read_seeds(seeds)
    before = {group.problem_id: group for group in _resume(out, problems, recipe)}
    last = next(reversed(before), "")
    counts = Summary(seeds=len(problems), resumed=len(before))
    console = Console(stderr=True)
    with _open(out) as file, Progress(*_COLUMNS, console=console, disable=not console.is_terminal) as progress:
        candidates = _candidates(problems, recipe, set(before))
        behind = not last  # whether what is in the file already is behind us
        for problem_id, group in progress.track(candidates, total=len(problems)):
            if group == "":
                group = before[problem_id]
            elif isinstance(group, Group):
                if not behind:
                    raise UserError(
                        f"{out}: lacks {problem_id}, which comes before {last}; remove it or choose another"
                    )
                file.write(_line(group))
                file.flush()
            if isinstance(group, Group):
                counts.count(group)
            else:
                counts.dropped[group] += 1
            behind = behind or problem_id == last
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


def run_build_groups(seeds: str, out: str, recipe: Recipe, summary: str | None) -> None:
    """`tracelift build-groups`: builds and says in two lines what there is."""
    counts = build_groups(seeds, out, recipe, summary)
    dropped = ", ".join(f"{number} {reason}" for reason, number in counts.dropped.items() if number) or "none"
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{out}: {counts.groups} groups with {counts.negatives} flawed traces, of {counts.seeds} seeds")
    console.print(f"dropped: {dropped}; {counts.resumed} groups were there before; {counts.seconds:.1f} s")
