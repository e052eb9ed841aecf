"""The file that a build writes, a group a line: what is there already, and what comes behind it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from tracelift_jax.errors import UserError
from tracelift_jax.groups.schema import Group
from tracelift_jax.groups.seeds import Seed

_OPENING = b'{"problem_id": "'  # how every line begins


def to_line(group: Group) -> bytes:
    """The line of a group."""
    return json.dumps(group.to_json(), ensure_ascii=False).encode() + b"\n"


class GroupFile:
    """Groups in the order of their seeds. Half a line at the end, as a killed process leaves it, is cut.

    Args:
        path: the file; made, with its folder, by `open`.
        problems: the seeds of the build.
        gaps: whether seeds may lack a group that they get later, behind which the file is then written anew.

    Attributes:
        ids: the problems of the groups that were there, in the order of the file.

    Raises:
        UserError: the file cannot be read, or holds something else than groups of these seeds in their order.
    """

    def __init__(self, path: Path, problems: Sequence[Seed], gaps: bool):
        self.path = path
        self._gaps = gaps
        self._places = {problem.problem_id: place for place, problem in enumerate(problems)}
        self._lines, self.ids = self._read()
        self._done = 0  # how many of the lines that were there are known to be right
        self._writes = False  # whether what is there has been compared, and lines are written behind it
        self._file: BinaryIO | None = None

    @property
    def other(self) -> UserError:
        """What is raised where the file holds another build."""
        return UserError(
            f"{self.path}: was not built from these seeds with these settings; remove it or choose another --out"
        )

    def _read(self) -> tuple[list[bytes], list[str]]:
        if not self.path.exists():
            return [], []
        try:
            data = self.path.read_bytes()
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror or error})") from None
        lines = data[: data.rfind(b"\n") + 1].splitlines(keepends=True)
        try:
            ids = [json.loads(line)["problem_id"] for line in lines]
            places = [self._places[problem_id] for problem_id in ids]
        except (ValueError, TypeError, KeyError):
            raise self.other from None
        if places != sorted(set(places)):
            raise self.other
        if not lines and data[: len(_OPENING)] != _OPENING[: len(data)]:
            raise self.other
        return lines, ids

    def ends(self) -> list[str]:
        """The problems of the first and the last group: a build made with other settings shows in them."""
        return list(dict.fromkeys([*self.ids[:1], *self.ids[-1:]]))

    def check(self, problem_id: str, group: Group | None) -> None:
        """Compares a group of the file with the same one made again.

        Raises:
            UserError: they differ.
        """
        if group is None or self._lines[self.ids.index(problem_id)] != to_line(group):
            raise self.other

    def open(self) -> None:
        """Makes ready to write; what is there stays as it is until then.

        Raises:
            UserError: the file cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("ab")
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written ({error.strerror or error})") from None

    def add(self, group: Group) -> None:
        """The next group: the one that is there, or one to write.

        Raises:
            UserError: there is another group in its place, or it cannot be written.
        """
        line = to_line(group)
        if not self._writes and self._done < len(self._lines):
            if self._lines[self._done] == line:
                self._done += 1
                return
            if not self._gaps or self._places[self.ids[self._done]] <= self._places[group.problem_id]:
                raise self.other
        self._write(line)

    def end(self, complete: bool) -> None:
        """After the last group; `complete` says whether no seed lacks one for now.

        Raises:
            UserError: there are more in the file.
        """
        if complete and not self._writes and self._done < len(self._lines):
            raise self.other
        self._write(b"")

    def _write(self, line: bytes) -> None:
        if self._file is None:
            raise RuntimeError("the file is not open")
        try:
            if not self._writes:
                self._file.truncate(sum(map(len, self._lines[: self._done])))
                self._writes = True
            self._file.write(line)
            self._file.flush()
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written ({error.strerror or error})") from None

    def close(self) -> None:
        """Leaves the file."""
        if self._file is not None:
            self._file.close()
