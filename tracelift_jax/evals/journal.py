"""Files that outlive a killed process: whole units of JSON lines, and whole files put in place at once."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from tracelift_jax.checked import first_difference
from tracelift_jax.errors import UserError

Row = dict[str, Any]
PARTIAL = ".tmp"
"""How files end that are not whole yet."""


def write_whole(path: Path, data: bytes) -> None:
    """Puts a file in place: whoever looks finds the old one or the whole new one, whatever happens meanwhile."""
    beside = path.with_name(path.name + PARTIAL)
    with open(beside, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


def to_json(value: Any) -> bytes:
    """A JSON file to be read by people too."""
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8", "backslashreplace")


def to_line(row: Mapping[str, Any]) -> bytes:
    """One line of a JSON Lines file."""
    # Half of a surrogate pair, which UTF-8 has not, is written as JSON spells it.
    return json.dumps(row, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace") + b"\n"


class Journal:
    """A JSON Lines file that grows by whole units in a fixed order.

    What a killed process left of its last unit is cut off, and that unit is done again.
    """

    def __init__(self, path: Path):
        self.path = path

    def resume(self, units: Iterator[Sequence[Row]], keep: Callable[[int, list[Row]], None]) -> int:
        """Reads the units that are whole, and cuts off what is behind them.

        Args:
            units: for each unit in order the beginnings of its lines: fields that they must have.
            keep: is given the number and the rows of each whole unit.

        Returns:
            How many are whole.

        Raises:
            UserError: a line is of something else.
        """
        offset = number = 0
        self.path.touch()
        with open(self.path, "r+b") as file:
            for expected in units:
                rows, end = self._read_unit(file, expected, offset)
                if len(rows) < len(expected):
                    break
                keep(number, rows)
                offset, number = end, number + 1
            else:
                if file.read(1):
                    raise UserError(f"{self.path}: has more lines than this evaluation; choose another --out")
            file.truncate(offset)
        return number

    def _read_unit(self, file: BinaryIO, expected: Sequence[Row], offset: int) -> tuple[list[Row], int]:
        """The lines of a unit as far as they are there, and where they end."""
        rows: list[Row] = []
        for wanted in expected:
            line = file.readline()
            if not line.endswith(b"\n"):
                break
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if not isinstance(row, dict) or any(row.get(name) != value for name, value in wanted.items()):
                raise UserError(f"{self.path}: byte {offset}: not a record of this evaluation; choose another --out")
            offset += len(line)
            rows.append(row)
        return rows, offset

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Appends one unit; it is on the disk when this returns."""
        with open(self.path, "ab") as file:
            file.write(b"".join(map(to_line, rows)))
            file.flush()
            os.fsync(file.fileno())


class Header:
    """`evaluation.json`: what an output directory holds the evaluation of; checked part by part on continuing."""

    def __init__(self, path: Path):
        """Reads the header, if there is one.

        Raises:
            UserError: it is no JSON object.
        """
        self.path = path
        self.parts: Row = {}
        if path.exists():
            try:
                parts = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise UserError(f"{path}: not JSON ({' '.join(str(error).split())}); choose another --out") from None
            if not isinstance(parts, dict):
                raise UserError(f"{path}: not a JSON object; choose another --out")
            self.parts = parts

    def compare(self, part: str, value: Any) -> None:
        """Compares a part, if it was written down before.

        Raises:
            UserError: the directory holds an evaluation of something else; says which part differs.
        """
        if part in self.parts:
            difference = first_difference({part: self.parts[part]}, {part: json.loads(json.dumps(value))})
            if difference:
                raise UserError(f"{self.path.parent}: holds another evaluation ({difference}); choose another --out")

    def check(self, part: str, value: Any) -> None:
        """`compare`, and writes a part down the first time it is known."""
        self.compare(part, value)
        if part not in self.parts:
            self.parts[part] = json.loads(json.dumps(value))
            write_whole(self.path, to_json(self.parts))
