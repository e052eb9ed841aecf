"""Frozen dataclasses that refuse wrong values: types in `check_types`, everything else in `require`.

A config class calls both in `__post_init__`, and every message begins with `Class.field`, by which
`gin_config` finds the line of the gin file to blame:

    @dataclasses.dataclass(frozen=True)
    class Train:
        steps: int = 80

        def __post_init__(self):
            check_types(self)
            require(self.steps >= 1, f"Train.steps must be at least 1, got {self.steps}")

`to_jsonable` and `first_difference` tell whether two runs are the same experiment.
"""

import collections.abc
import dataclasses
import difflib
import functools
import inspect
import math
import operator
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from tracelift_jax.errors import UserError

_NOTHING = object()


def require(condition: bool, message: str) -> None:
    """Raises `UserError(message)` unless `condition` holds."""
    if not condition:
        raise UserError(message)


def check_types(instance: Any) -> None:
    """Checks every field of a dataclass instance against its annotation; call it first in `__post_init__`.

    Two things are converted in place, because gin writes them so: an int where a float is annotated, and a
    list where a tuple is. A bool is not an int. Protocols are checked by the names they ask for.

    Args:
      instance: a dataclass instance, frozen or not; fields with `init=False` are skipped.

    Raises:
      UserError: `Train.steps: expected int, got '10' (str)`.
    """
    cls = type(instance)
    hints = _hints(cls)
    for field in dataclasses.fields(instance):
        if field.init:
            value = getattr(instance, field.name)
            conformed = _conform(value, hints[field.name], f"{cls.__name__}.{field.name}")
            if conformed is not value:
                object.__setattr__(instance, field.name, conformed)


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """Returns `; did you mean 'steps'?` for the candidate nearest to `name`, or an empty string."""
    by_lower = {candidate.lower(): candidate for candidate in candidates}
    nearest = difflib.get_close_matches(name.lower(), list(by_lower), n=1)
    return f"; did you mean {by_lower[nearest[0]]!r}?" if nearest else ""


def to_jsonable(value: Any) -> Any:
    """Turns a tree of dataclasses into nested dicts and lists; a dataclass becomes `{"__class__": name, **fields}`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: to_jsonable(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"__class__": type(value).__name__, **fields}
    if isinstance(value, Mapping):
        return {str(key): to_jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_jsonable(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, type) or inspect.isroutine(value):
        return f"{value.__module__}.{value.__qualname__}"
    return {"__class__": type(value).__name__}


def first_difference(a: Any, b: Any, ignore: AbstractSet[str] = frozenset()) -> str | None:
    """Finds the first place where two trees from `to_jsonable` differ.

    Args:
      a: a tree of dicts, lists and plain values.
      b: the tree to compare with.
      ignore: dotted paths, such as `task.seed` or `tasks.0`, whose values (and all below) may differ.

    Returns:
      `task.seed: 3 and 4` (the value in `a` first; `nothing` for a field that one of them lacks), or None.
    """
    return _first_difference(a, b, ignore, "")


def _first_difference(a: Any, b: Any, ignore: AbstractSet[str], path: str) -> str | None:
    if path in ignore:
        return None
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        left, right = dict(a), dict(b)
    elif isinstance(a, Sequence) and isinstance(b, Sequence) and not isinstance(a, str) and not isinstance(b, str):
        left, right = ({str(i): item for i, item in enumerate(items)} for items in (a, b))
    elif _same(a, b):
        return None
    else:
        return f"{path or 'the whole'}: {_shown(a)} and {_shown(b)}"
    for key in {**left, **right}:
        below = f"{path}.{key}" if path else key
        found = _first_difference(left.get(key, _NOTHING), right.get(key, _NOTHING), ignore, below)
        if found:
            return found
    return None


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b):
        return True
    return isinstance(a, bool) == isinstance(b, bool) and a == b


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _conform(value: Any, kind: Any, where: str) -> Any:
    """Returns `value`, converted if need be, as the annotation `kind` asks; raises UserError where it cannot."""
    if isinstance(kind, typing.NewType):
        kind = kind.__supertype__
    container = typing.get_origin(kind) or kind
    if kind is Any or isinstance(kind, typing.TypeVar):
        return value
    if container in (typing.Union, types.UnionType):
        return _conform_union(value, kind, where)
    if container is typing.Literal:
        return _conform_literal(value, kind, where)
    if container in (tuple, list, collections.abc.Sequence):
        return _conform_sequence(value, kind, where)
    if container in (dict, collections.abc.Mapping):
        return _conform_mapping(value, kind, where)
    if container is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise _mismatch(value, kind, where, "; it is too large") from None
    if not _is_instance(value, container):
        raise _mismatch(value, kind, where)
    return value


def _is_instance(value: Any, cls: Any) -> bool:
    if cls is collections.abc.Callable:
        return callable(value)
    if cls is None:
        return value is None
    if getattr(cls, "_is_protocol", False):
        asked = _protocol_members(cls)
        if isinstance(value, type) and "__call__" not in asked:
            return False
        return all(inspect.getattr_static(value, name, _NOTHING) is not _NOTHING for name in asked)
    return isinstance(value, cls) and not (cls is int and isinstance(value, bool))


@functools.cache
def _protocol_members(cls: type) -> frozenset[str]:
    bases = [base for base in cls.__mro__ if getattr(base, "_is_protocol", False) and base is not typing.Protocol]
    names = {name for base in bases for name in (*vars(base), *vars(base).get("__annotations__", {}))}
    return frozenset(name for name in names if name == "__call__" or not name.startswith("_"))


def _conform_union(value: Any, kind: Any, where: str) -> Any:
    """Takes the first alternative that fits as it is, else the first that fits by conversion."""
    converted, refusals = [], []
    for member in typing.get_args(kind):
        try:
            conformed = _conform(value, member, where)
        except UserError as refusal:
            refusals.append(str(refusal))
            continue
        if conformed is value:
            return value
        converted.append(conformed)
    if converted:
        return converted[0]
    # A fault inside a container says more than "expected tuple of int or None".
    inner = [refusal for refusal in refusals if not refusal.startswith(f"{where}: expected")]
    raise UserError(inner[0]) if inner else _mismatch(value, kind, where, _literal_hint(value, kind))


def _conform_literal(value: Any, kind: Any, where: str) -> Any:
    options = typing.get_args(kind)
    if not any(type(value) is type(option) and value == option for option in options):
        raise _mismatch(value, kind, where, _literal_hint(value, kind))
    return value


def _literal_hint(value: Any, kind: Any) -> str:
    kinds = [kind, *typing.get_args(kind)]
    options = [o for k in kinds if typing.get_origin(k) is typing.Literal for o in typing.get_args(k)]
    return did_you_mean(value, [o for o in options if isinstance(o, str)]) if isinstance(value, str) else ""


def _conform_sequence(value: Any, kind: Any, where: str) -> Any:
    if not isinstance(value, list | tuple):
        alone = isinstance(value, bool | int | float | str)
        raise _mismatch(value, kind, where, f"; one value alone is written ({_shown(value)},)" if alone else "")
    members, container = typing.get_args(kind), typing.get_origin(kind) or kind
    if not members:
        members = (Any, ...)
    if container is not tuple or members[-1] is ...:
        members = (members[0],) * len(value)
    if len(members) != len(value):
        raise _mismatch(value, kind, where)
    pairs = enumerate(zip(value, members, strict=True))
    items = [_conform(item, member, f"{where}[{i}]") for i, (item, member) in pairs]
    result = list if container is list else tuple
    unchanged = isinstance(value, result) and all(map(operator.is_, items, value))
    return value if unchanged else result(items)


def _conform_mapping(value: Any, kind: Any, where: str) -> Any:
    if not isinstance(value, Mapping):
        raise _mismatch(value, kind, where)
    keys, values = typing.get_args(kind) or (Any, Any)
    conformed = {
        _conform(key, keys, f"{where} key {key!r}"): _conform(item, values, f"{where}[{key!r}]")
        for key, item in value.items()
    }
    unchanged = all(map(operator.is_, conformed, value)) and all(map(operator.is_, conformed.values(), value.values()))
    return value if unchanged else conformed


def _mismatch(value: Any, kind: Any, where: str, hint: str = "") -> UserError:
    if value is None:
        got = "None"
    elif isinstance(value, type):
        got = f"the class {value.__name__}"
        hint = hint or f"; in gin write @{value.__name__}(), with parentheses"
    else:
        got = f"{_shown(value)} ({type(value).__name__})"
    if kind is bool and not hint:
        hint = "; write True or False"
    if kind is str and isinstance(value, int | float):
        hint = f"; a string needs quotes: \"'{value}'\""
    return UserError(f"{where}: expected {_described(kind)}, got {got}{hint}")


def _described(kind: Any) -> str:
    """Names an annotation for a message: `int`, `one of 'a', 'b'`, `tuple of float`, `int or None`."""
    origin, members = typing.get_origin(kind), typing.get_args(kind)
    if kind in (None, types.NoneType):
        return "None"
    if origin is typing.Literal:
        return ("one of " if len(members) > 1 else "") + ", ".join(repr(member) for member in members)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_described(member) for member in members)
    if (origin or kind) is collections.abc.Callable:
        return "a function"
    if origin is tuple and members and members[-1] is not ...:
        return f"tuple of {len(members)} ({', '.join(_described(member) for member in members)})"
    if origin in (tuple, list, collections.abc.Sequence):
        return f"{'list' if origin is list else 'tuple'} of {_described(members[0])}"
    if origin in (dict, collections.abc.Mapping):
        return f"dict of {_described(members[0])} to {_described(members[1])}"
    return getattr(origin or kind, "__name__", str(kind))


def _shown(value: Any) -> str:
    if value is _NOTHING:
        return "nothing"
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else text[:77] + "..."
