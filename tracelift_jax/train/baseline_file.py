"""How an executor fares without reasoning on a whole split, kept in a file for every run that asks the same.

The first line says what was measured, {"baseline": {part: value, ...}}; each further one holds a problem:

    {"problem_id", "ok", "trials", "likelihood"}

`ok` of `trials` samples were right, and `likelihood` is the executor's probability of the canonical answer, null where
it was not measured. A problem that does not fit, or cannot be judged, has 0 trials.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tracelift_jax.checked import check_types, first_difference, require, to_jsonable
from tracelift_jax.errors import UserError
from tracelift_jax.tasks.problem import Problem
from tracelift_jax.train.roles import Loaded

HEADER = "baseline"
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class BaselineFile:
    """A file of `tracelift baseline`.

    Attributes:
        path: the file.
        extend: problems it lacks are measured when they come up, and added to it; else they are refused.
    """

    path: str
    extend: bool = False

    def __post_init__(self) -> None:
        check_types(self)
        require(bool(self.path), "BaselineFile.path must not be empty")


def baseline_key(loaded: Loaded, problems: Sequence[Problem]) -> dict[str, Any]:
    """All that a baseline depends on, part by part: who is asked what, how, and about which problems."""
    roles, tokenizer = loaded.roles, loaded.tokenizer
    table = tokenizer.token_bytes()
    words = hashlib.sha256(bytes(table.data.tobytes()) + bytes(table.length.tobytes())).hexdigest()
    told = hashlib.sha256()
    for problem in problems:
        tests = "" if problem.oracle is None else json.dumps(problem.oracle.to_json())
        for text in (problem.problem_id, problem.text, problem.answer, *filter(None, [tests])):
            told.update(text.encode("utf-8", "backslashreplace") + b"\0")
    prompts, config = roles.prompts, loaded.executor.shape
    return {
        "executor": loaded.fingerprints["executor"],
        "numerics": config.dtype,
        "tokenizer": words,
        "prompt": to_jsonable([prompts.executor, prompts.ask_directly, prompts.stop, list(tokenizer.ends)]),
        "room": [roles.prompt_tokens, roles.answer_tokens],
        "sampling": to_jsonable(roles.executor),
        "problems": [len(problems), told.hexdigest()],
    }


class Baseline:
    """A baseline file, read and added to.

    Attributes:
        rows: what it holds, by problem id; of a problem that is there twice, the first.
    """

    def __init__(self, path: str | Path, key: Mapping[str, Any]):
        """Reads a file, or begins one in memory where there is none.

        Raises:
            UserError: it was measured with something else than `key`, and says with what; or it is no such file.
        """
        self.path = Path(path)
        self._key = json.loads(json.dumps(key))
        self.rows: dict[str, Row] = {}
        if self.path.exists():
            self._read()

    def _read(self) -> None:
        try:
            lines = self.path.read_bytes().split(b"\n")
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror or error})") from None
        rows = [self._parse(line, number) for number, line in enumerate(lines[:-1], start=1)]  # the last is cut off
        if not rows:
            return
        if set(rows[0]) != {HEADER}:
            raise UserError(f'{self.path}: no baseline; its first line should be {{"{HEADER}": ...}}')
        difference = first_difference(rows[0][HEADER], self._key)
        if difference:
            raise UserError(
                f"{self.path}: was measured with something else ({difference}); measure again with `tracelift baseline`"
            )
        for number, row in enumerate(rows[1:], start=2):
            if not _is_row(row):
                raise UserError(f'{self.path}:{number}: needs "problem_id" and whole numbers 0 <= "ok" <= "trials"')
            self.rows.setdefault(row["problem_id"], row)

    def _parse(self, line: bytes, number: int) -> Row:
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise UserError(f"{self.path}:{number}: not a JSON object; remove the file and measure again")
        return row

    def missing(self, problems: Sequence[Problem]) -> list[Problem]:
        """Those that were never measured."""
        return [problem for problem in problems if problem.problem_id not in self.rows]

    def add(self, rows: Sequence[Row]) -> None:
        """Adds rows at the end of the file, after cutting off what a killed process left of its last line."""
        new = [row for row in rows if row["problem_id"] not in self.rows]
        if not new:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "ab+") as file:
                size = file.seek(0, os.SEEK_END)
                if not size:
                    file.write(json.dumps({HEADER: self._key}).encode() + b"\n")
                else:
                    file.seek(0)
                    file.truncate(file.read().rfind(b"\n") + 1)
                file.write(b"".join(json.dumps(row).encode() + b"\n" for row in new))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written ({error.strerror or error})") from None
        self.rows |= {row["problem_id"]: row for row in new}


def open_baseline(
    config: BaselineFile, loaded: Loaded, problems: Sequence[Problem], asked: Sequence[Problem], split: str
) -> Baseline:
    """The baseline of a run's executor.

    Args:
        problems: of the whole split, for which it was measured. asked: those that are needed. split: its name.

    Raises:
        UserError: it was measured with something else, or some are missing and must not be.
    """
    file = Baseline(config.path, baseline_key(loaded, problems))
    missing = file.missing(asked)
    if missing and not config.extend:
        lacking = f"{len(missing)} of {len(asked)} problems, the first {missing[0].problem_id}"
        raise UserError(
            f"{config.path}: lacks {lacking}; measure them with `tracelift baseline --split={split}`, or set "
            "BaselineFile.extend"
        )
    return file


def _is_row(row: Row) -> bool:
    ok, trials = row.get("ok"), row.get("trials")
    counts = isinstance(ok, int) and isinstance(trials, int) and 0 <= ok <= trials
    return counts and isinstance(row.get("problem_id"), str)
