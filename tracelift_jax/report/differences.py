"""In which settings runs differ."""

from collections.abc import Mapping, Sequence
from typing import Any

NOTHING = object()
"""The value of a setting that a run does not have."""


def flat(config: Any, path: str = "") -> dict[str, Any]:
    """A tree of `config.json` as {dotted path: plain value}; `x.__class__` is named `x`, empty ones are kept."""
    if isinstance(config, Mapping):
        found: dict[str, Any] = {}
        for name, value in config.items():
            at = path if name == "__class__" else f"{path}.{name}" if path else name
            found |= {at or "experiment": value} if name == "__class__" else flat(value, at)
        return found or {path: {}}
    if isinstance(config, list) and any(isinstance(item, Mapping | list) for item in config):
        return {at: value for index, item in enumerate(config) for at, value in flat(item, f"{path}.{index}").items()}
    return {path: config}


def differences(configs: Sequence[Any]) -> list[tuple[str, list[Any]]]:
    """(path, value in each run) wherever runs differ; `NOTHING` where one has no such setting."""
    flats = [flat(config) for config in configs]
    rows = {path: [one.get(path, NOTHING) for one in flats] for path in _merged(flats)}
    return [
        (path, values)
        for path, values in rows.items()
        if any(not _same(value, values[0]) for value in values) and not _goes_without_saying(path, rows)
    ]


def _merged(flats: Sequence[Mapping[str, Any]]) -> list[str]:
    """All paths, each behind the one that it follows where it first occurs."""
    paths: list[str] = []
    for one in flats:
        place = 0
        for path in one:
            if path in paths:
                place = paths.index(path) + 1
            else:
                paths.insert(place, path)
                place += 1
    return paths


def _goes_without_saying(path: str, rows: Mapping[str, list[Any]]) -> bool:
    """Whether a setting is missing because what it belongs to is, and is the same wherever it is there."""
    there = [value is not NOTHING for value in rows[path]]
    values = [value for value in rows[path] if value is not NOTHING]
    owner = path.rpartition(".")[0]
    while owner and owner not in rows:
        owner = owner.rpartition(".")[0]
    absent = bool(owner) and [value is not NOTHING and value is not None for value in rows[owner]] == there
    return absent and not all(there) and all(_same(value, values[0]) for value in values)


def _same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and a == b
