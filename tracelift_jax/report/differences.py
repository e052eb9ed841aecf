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
    paths = list(dict.fromkeys(path for one in flats for path in one))
    rows = [(path, [one.get(path, NOTHING) for one in flats]) for path in paths]
    return [(path, values) for path, values in rows if any(not _same(value, values[0]) for value in values)]


def _same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and a == b
