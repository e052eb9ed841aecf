"""The reward model by itself: problem and reasoning as text in, rubric, total and score out.

An item is read as one sequence, `problem open reasoning close` (`text.prompts`), and graded at its last token.
Sequences are padded to few lengths and batches to two sizes, so that few shapes are compiled.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from tracelift_jax.checked import check_types, require
from tracelift_jax.errors import UserError
from tracelift_jax.groups.schema import DIMENSIONS, RubricName
from tracelift_jax.models import build
from tracelift_jax.models.build import Adapter, Model
from tracelift_jax.models.fingerprint import fingerprint
from tracelift_jax.models.segment import last_valid
from tracelift_jax.models.transformer import Transformer, forward
from tracelift_jax.parallel.hosts import place_batch
from tracelift_jax.parallel.mesh import MeshConfig, batch_shards, check_batch, make_mesh
from tracelift_jax.rollout.score import grade_hidden
from tracelift_jax.tasks.problem import Problem
from tracelift_jax.text.prompts import Pieces, Prompts
from tracelift_jax.text.spans import Tokens, pad
from tracelift_jax.text.tokenizer import Tokenizer
from tracelift_jax.train.solution import Graded

SMALL = 8
"""The smaller of the two batch sizes is the larger one divided by this."""
DIGITS = 7
"""Decimals of the numbers that are given out: what float32 holds of numbers around 1."""
HALF_A_PAIR = re.compile("[\ud800-\udfff]")
"""Letters that JSON can spell and no tokenizer takes."""


@dataclasses.dataclass(frozen=True)
class Service:
    """What `tracelift serve` takes on at a time.

    Attributes:
        max_items: items in one request. max_bytes: size of one request.
        max_waiting: items of all requests that were accepted and are not answered; more are refused with 503.
        gather_ms: how long the device waits for more requests when there is less than a batch to do.
        read_seconds: how long a client may take to send its request.
        drain_seconds: how long a server that was told to stop waits for what it accepted.
    """

    max_items: int = 1024
    max_bytes: int = 16 * 2**20
    max_waiting: int = 8192
    gather_ms: float = 3.0
    read_seconds: float = 30.0
    drain_seconds: float = 60.0

    def __post_init__(self) -> None:
        check_types(self)
        for field in ("max_items", "max_bytes"):
            require(getattr(self, field) >= 1, f"Service.{field} must be at least 1, got {getattr(self, field)}")
        require(
            self.max_waiting >= self.max_items,
            f"Service.max_waiting must be at least max_items = {self.max_items}, got {self.max_waiting}",
        )
        require(self.gather_ms >= 0, f"Service.gather_ms must not be negative, got {self.gather_ms}")
        for field in ("read_seconds", "drain_seconds"):
            require(getattr(self, field) > 0, f"Service.{field} must be above 0, got {getattr(self, field)}")


@dataclasses.dataclass(frozen=True)
class Scorer:
    """`tracelift score` and `tracelift serve --rm`: a reward model, and how it reads.

    Attributes:
        reward_model: weights of its own, or an adapter with heads on `base`.
        base: the adapter's base; None for weights of its own.
        tokenizer: its directory; empty: the base's, or the reward model's.
        prompts: the words around problem and reasoning.
        lengths: the lengths that sequences are padded to, in growing order. The last is the most a problem and its
            reasoning may take together.
        too_long: what becomes of more. "cut_problem": the end of the tests and then of the problem is cut, and an item
            whose reasoning alone is too long is refused. "reference": all is one text, cut on the right as in the
            paper's code, so that a long reasoning loses its end and is graded at the last token left.
        task_name, task_type: of items that do not say.
        batch_size: sequences graded at a time, over all devices; where there are few, an eighth of it.
        chunk: lines of a file that are sorted by length together, and written together.
        mesh: the devices. service: limits of the server.
    """

    reward_model: Model | Adapter
    base: Model | None = None
    tokenizer: str = ""
    prompts: Prompts = Prompts()
    lengths: tuple[int, ...] = (256, 512, 1024, 2048, 3072)
    too_long: Literal["cut_problem", "reference"] = "cut_problem"
    task_name: RubricName = "math"
    task_type: str = "math"
    batch_size: int = 32
    chunk: int = 1024
    mesh: MeshConfig = MeshConfig()
    service: Service = Service()

    def __post_init__(self) -> None:
        check_types(self)
        for field in ("batch_size", "chunk"):
            require(getattr(self, field) >= 1, f"Scorer.{field} must be at least 1, got {getattr(self, field)}")
        growing = self.lengths == tuple(sorted(set(self.lengths))) and all(length >= 1 for length in self.lengths)
        require(bool(self.lengths) and growing, f"Scorer.lengths must be growing numbers above 0, got {self.lengths}")
        adapter = isinstance(self.reward_model, Adapter)
        require(not adapter or self.base is not None, "Scorer.base must be set where Scorer.reward_model is an Adapter")
        require(adapter or self.base is None, "Scorer.base is for an Adapter; Scorer.reward_model has its own weights")
        require(bool(self.reward_model.path), "Scorer.reward_model needs a path")
        require(bool(self.words), "Scorer.tokenizer must be set where Scorer.base has no path")

    @property
    def words(self) -> str:
        """The tokenizer's directory as given."""
        return self.tokenizer or (self.base.path if self.base else self.reward_model.path)


@dataclasses.dataclass(frozen=True)
class Item:
    """One reasoning to grade. `task_name`, `task_type` and `tests` are what the reward model is told of the problem."""

    problem: str
    reasoning: str
    task_name: RubricName = "math"
    task_type: str = "math"
    tests: str = ""


ITEM_FIELDS = tuple(field.name for field in dataclasses.fields(Item))


def read_item(row: Mapping[str, Any], config: Scorer) -> Item:
    """The fields of an item in a JSON object; others are not looked at. What it does not say of its task `config` does.

    Raises:
        UserError: a field is missing or is not usable; the message names it, the caller adds where.
    """
    found: dict[str, Any] = {"task_name": config.task_name, "task_type": config.task_type}
    found |= {name: row[name] for name in ITEM_FIELDS if name in row}
    for name in ("problem", "reasoning"):
        require(name in found, f'field "{name}" is missing')
    for name, value in found.items():
        require(isinstance(value, str), f'field "{name}" must be a string, not {type(value).__name__}')
        require(not HALF_A_PAIR.search(value), f'field "{name}" holds half of a surrogate pair (\\ud800 to \\udfff)')
    require(bool(found["problem"].strip()), 'field "problem" is empty')
    item = Item(**found)
    known = " or ".join(f'"{name}"' for name in DIMENSIONS)
    require(item.task_name in DIMENSIONS, f'field "task_name" must be {known}, not {item.task_name[:40]!r}')
    return item


@dataclasses.dataclass(frozen=True)
class Read:
    """An item as the reward model reads it: its tokens, and the names of its rubric's dimensions."""

    ids: tuple[int, ...]
    dimensions: tuple[str, ...]


class LoadedScorer:
    """A reward model on the mesh.

    Attributes:
        config: what it was made from. fingerprint: of its weights.
    """

    def __init__(self, config: Scorer, tokenizer: Tokenizer, mesh: Mesh, model: Transformer, weights: tuple[Any, Any]):
        self.config, self.fingerprint = config, fingerprint(*weights)
        self._pieces, self._mesh, self._weights = Pieces(config.prompts, tokenizer), mesh, weights

        def run(weights: tuple[Any, Any], tokens: Tokens) -> tuple[Array, Array, Array]:
            variables, heads = weights
            valid = jnp.asarray(tokens.valid)
            hidden, _ = forward(model, variables, tokens.ids, valid)
            graded = grade_hidden(model, heads, last_valid(hidden, valid))
            return graded.expected, graded.total, graded.score

        self._run = jax.jit(run)
        check_batch(mesh, "Scorer.batch_size", config.batch_size)
        small = max(config.batch_size // SMALL, 1)
        self._small = small if small % batch_shards(mesh) == 0 else config.batch_size

    def read(self, item: Item, most: int | None = None) -> Read:
        """An item's tokens; white space around problem, tests and reasoning does not count.

        Args:
            most: the most tokens; the longest of `Scorer.lengths` is the limit in any case.

        Raises:
            UserError: the reasoning does not fit, however far the problem is cut, and may not be cut itself.
        """
        longest = self.config.lengths[-1]
        room = longest if most is None else min(most, longest)
        trace = self._pieces.tagged(item.reasoning.strip())
        problem = Problem(
            "",
            item.problem.strip(),
            answer="",
            task_type=item.task_type,
            task_name=item.task_name,
            tests=item.tests.strip(),
        )
        if self.config.too_long == "reference":
            whole = [*self._pieces.problem("reward_model", problem), *trace]
            return Read(tuple(whole[:room]), DIMENSIONS[item.task_name])
        statement = self._pieces.cut_problem("reward_model", problem, room - len(trace))
        if statement is None:
            raise UserError(
                f"the reasoning takes {len(trace)} tokens, which leaves no room for a problem within {room}; "
                "allow more, or have it cut: Scorer.too_long = 'reference'"
            )
        return Read((*statement, *trace), DIMENSIONS[item.task_name])

    def grade(self, items: Sequence[Read]) -> list[Graded]:
        """Grades items, those of about one length together.

        Raises:
            UserError: the weights give a number that is none.
        """
        batches: list[tuple[list[int], Any]] = []
        for length, rows in self._by_length(items):
            for start in range(0, len(rows), self.config.batch_size):
                part = rows[start : start + self.config.batch_size]
                batches.append((part, self._run(self._weights, self._batch([items[row].ids for row in part], length))))
        graded: dict[int, Graded] = {}
        for part, arrays in batches:
            for row, *numbers in zip(part, *map(np.asarray, jax.device_get(arrays)), strict=False):
                graded[row] = self._graded(items[row], *numbers)
        return [graded[row] for row in range(len(items))]

    def warm_up(self) -> None:
        """Compiles every shape, so that no request waits for it."""
        for length in self.config.lengths:
            for size in {self._small, self.config.batch_size}:
                jax.block_until_ready(self._run(self._weights, self._batch([[0]] * size, length)))

    def _by_length(self, items: Sequence[Read]) -> list[tuple[int, list[int]]]:
        """Rows of `items` by the length they are padded to."""
        rows: dict[int, list[int]] = {}
        for row, item in enumerate(items):
            length = next(length for length in self.config.lengths if length >= len(item.ids))
            rows.setdefault(length, []).append(row)
        return sorted(rows.items())

    def _batch(self, rows: Sequence[Sequence[int]], length: int) -> Tokens:
        size = self._small if len(rows) <= self._small else self.config.batch_size
        filled = [*rows, *[[0]] * (size - len(rows))]
        return place_batch(pad(filled, length, self._pieces.tokenizer.pad_id), self._mesh)

    def _graded(self, item: Read, expected: np.ndarray, total: np.ndarray, score: np.ndarray) -> Graded:
        if not np.isfinite([*expected, total, score]).all():
            raise UserError(f"{self.config.reward_model.path}: its weights give numbers that are not finite")
        labels = [round(float(label), DIGITS) for label in expected]
        rubric = dict(zip(item.dimensions, labels, strict=True))
        return Graded(rubric, round(float(total), DIGITS), round(float(score), DIGITS))


def load_scorer(config: Scorer) -> LoadedScorer:
    """Reads a reward model onto the mesh.

    Raises:
        UserError: a path, checkpoint or tokenizer cannot be used.
    """
    tokenizer = Tokenizer.load(build.find(config.words))
    mesh = make_mesh(config.mesh)
    base = None
    if config.base:
        shape = build.model_config(config.base, len(tokenizer))
        base = shape, build.load_base(config.base, shape, mesh, config.mesh)
    shape, weights = build.load_grader(config.reward_model, base, len(tokenizer), mesh, config.mesh)
    tokenizer.check_vocabulary(shape.vocab_size)
    return LoadedScorer(config, tokenizer, mesh, Transformer(shape, mesh), weights)
