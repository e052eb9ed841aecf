"""Gin files in, one tree of frozen dataclasses out, and nothing that gin 0.5 would let pass in silence.

Gin accepts a misspelt macro, a value of the wrong type, and bindings that nothing reads; it resolves an
include against the working directory only, keeps what it registered for the life of the process, and answers a
mistake with a page of traceback. So `load` drives gin's parser itself, statement by statement: it knows where each
binding was written, checks the macros before anything is built and the leftovers afterwards, and forgets
everything at the end. Every refusal is a `UserError` of one line, with `file:line` or the flag in front.

This and `gin_reader.py` are the only modules that know gin; `cli.py` and `commands/` alone ask them.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Generic, NamedTuple, NoReturn, TypeVar

import gin
from gin import config as gin_core

from tracelift_jax.checked import did_you_mean
from tracelift_jax.errors import UserError
from tracelift_jax.gin_reader import Binding, Key, Reader, find_file, first_line, fresh_gin, split_binding

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Loaded(Generic[T]):
    """What `load` returns.

    Attributes:
      value: the one instance of the root class.
      operative: gin's operative config: every value used, defaults included. Loading it again gives an equal value.
    """

    value: T
    operative: str


def parse_flags(argv: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """Takes gin's flags out of a command line.

    Args:
      argv: arguments, without the program name.

    Returns:
      files (`--gin_file=F` or `--gin_file F`), bindings (the `NAME=VALUE` of `--gin.NAME=VALUE`), and the rest, each
      in order. What follows `--` is left alone.
    """
    files, bindings, rest = [], [], []
    arguments = iter(argv)
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        if argument == "--":
            rest += [argument, *arguments]
        elif flag == "--gin_file":
            file = value if equals else next(arguments, "")
            if not file or file.startswith("--"):
                raise UserError("--gin_file needs a file: --gin_file=experiments/dial/train.gin")
            files.append(file)
        elif flag.startswith("--gin."):
            binding = argument.removeprefix("--gin.")
            split_binding(binding)
            bindings.append(binding)
        elif flag.startswith("--gin"):
            raise UserError(f"{argument}: no such flag; gin's flags are --gin_file=F and --gin.NAME=VALUE")
        else:
            rest.append(argument)
    return files, bindings, rest


def load(
    root: type[T], files: Sequence[str], bindings: Sequence[str] = (), fill: Mapping[str, str] | None = None
) -> Loaded[T]:
    """Builds `root` from gin files and command-line bindings, later ones winning over earlier ones.

    Gin's state is cleared before and after, so loads do not see each other.

    Args:
      root: a frozen dataclass; built once, by gin, with all that it refers to.
      files: gin files, relative to the working directory or to the repository.
      bindings: `NAME=VALUE`, as `--gin.NAME=VALUE` gives them. NAME is a macro (`STEPS`) or a field
        (`config.Train.steps`, also `Train.steps`). A VALUE that is not a gin value is a string: `RUN=foo/bar`.
      fill: values of macros that have to be given and were not, by name; others are refused.

    Raises:
      UserError: whatever is wrong with the files, the names or the values.
    """
    with fresh_gin(root):
        reader = Reader()
        for file in files:
            reader.read_file(find_file(file, [Path()], f"gin file {file!r}"), ())
        if gin_core._inverse_lookup(root) is None:
            gin.external_configurable(root)
        reader.read_flags(bindings)
        final = {binding.key: binding for binding in reader.seen}
        _check_macros(reader.seen, final)
        final = _filled(final, fill or {})
        _check_required(final)
        value = _build(root, final)
        _check_used(root, reader.seen, final)
        return Loaded(value, gin.operative_config_str())


def _check_macros(seen: Sequence[Binding], final: dict[Key, Binding]) -> None:
    """Refuses macros used but not defined, and macros defined but not used."""
    defined = {key.scope: binding for key, binding in final.items() if key.is_macro}
    used = {macro: binding for binding in final.values() for macro in binding.macros()}
    # A default in a base file whose only use is overridden is fine; a flag without effect is not.
    once_used = {macro for binding in seen for macro in binding.macros() if macro != binding.name}
    unused = [b for name, b in defined.items() if name not in (used if b.from_flag else once_used)]
    undefined = [(name, binding) for name, binding in used.items() if name not in defined]
    for binding in unused:
        if binding.from_flag:
            _refuse_unused_macro(binding, used)
    for name, binding in undefined:
        hint = did_you_mean(name, defined) or f": give --gin.{name}=..."
        raise UserError(f"{binding.where}: macro %{name} is not defined{hint}")
    for binding in unused:
        _refuse_unused_macro(binding, used)
    for name, binding in defined.items():
        reached = set(binding.macros())
        for _ in defined:
            reached |= {deeper for macro in reached for deeper in defined[macro].macros()}
        if name in reached:
            raise UserError(f"{binding.where}: the macro {name} refers to itself")


def _refuse_unused_macro(binding: Binding, used: dict[str, Binding]) -> NoReturn:
    raise UserError(f"{binding.where}: nothing uses the macro {binding.name}{did_you_mean(binding.name, used)}")


def _is_required(binding: Binding) -> bool:
    return any(ref.config_key == ("gin.REQUIRED", "gin.constant") for ref in binding.references())


def _filled(final: dict[Key, Binding], fill: Mapping[str, str]) -> dict[Key, Binding]:
    """The bindings with values of `fill` for macros that have none."""
    found = {}
    for key, binding in final.items():
        if key.is_macro and binding.name in fill and _is_required(binding):
            gin.bind_parameter(key, fill[binding.name])
            found[key] = dataclasses.replace(binding, value=fill[binding.name])
    return final | found


def _check_required(final: dict[Key, Binding]) -> None:
    for binding in final.values():
        if _is_required(binding):
            raise UserError(f"{binding.name} has no value: give --gin.{binding.name}=... ({binding.where} asks for it)")


def _build(root: type[T], final: dict[Key, Binding]) -> T:
    """Calls the root once; a UserError from a `__post_init__` gets the place of the binding it speaks of."""
    try:
        return gin.get_configurable(root)()
    except UserError as error:
        message = first_line(error)
    except RecursionError:
        message = f"{root.__name__} never ends: some @reference leads back to itself"
    except TypeError as error:
        missing = re.match(r"(?:.*\.)?(\w+)\.__init__\(\) missing \d+ required .*?arguments?: '(\w+)'", str(error))
        if not missing or not any(key[1].split(".")[-1] == missing[1] for key in gin_core._OPERATIVE_CONFIG):
            raise
        field = f"{missing[1]}.{missing[2]}"
        message = f"{field} has no value: bind it in a gin file, or give --gin.{field}=..."
    where = _blame(message, final)
    raise UserError(f"{where}: {message}" if where else message) from None


def _blame(message: str, final: dict[Key, Binding]) -> str:
    """The place of the value of `Class.field` that a message begins with, followed through macros."""
    field = re.match(r"\w+\.\w+", message)
    places = []
    for binding in final.values():
        if field and f".{binding.key.selector}.{binding.key.field}".endswith(f".{field[0]}"):
            while isinstance(binding.value, gin_core.ConfigurableReference) and (macros := binding.macros()):
                binding = final[Key(macros[0], "gin.macro", "value")]
            places.append(binding.where)
    return " or ".join(places)


def _check_used(root: type, seen: Sequence[Binding], final: dict[Key, Binding]) -> None:
    """Refuses bindings of what was never built, by gin's record of what was.

    A file may bind what it built before a later binding replaced it: `--gin.Roles.reward_model=None` need not name
    all that the file said of that model. A flag without effect is refused.
    """
    called = [_Built(tuple(scope.split("/")), selector) for scope, selector in gin_core._OPERATIVE_CONFIG]
    replaced = _replaced(seen, final)
    for binding in final.values():
        key = binding.key
        if key.is_macro and not binding.from_flag:
            continue
        if not any(built.takes(key) for built in (called if binding.from_flag else [*called, *replaced])):
            what = binding.name.rpartition(".")[0]
            why = "nothing that uses it is" if key.is_macro else f"no {what} is"
            raise UserError(f"{binding.where}: {binding.name} changes nothing: {why} part of this {root.__name__}")


class _Built(NamedTuple):
    """A class that is built, and the scopes it is built in."""

    scope: tuple[str, ...]
    selector: str

    def takes(self, key: Key) -> bool:
        """Whether a binding of `key` applies to it."""
        scope = tuple(key.scope.split("/")) if key.scope else ()
        return self.selector == key.selector and self.scope[: len(scope)] == scope


def _replaced(seen: Sequence[Binding], final: dict[Key, Binding]) -> list[_Built]:
    """What would have been built had no binding been replaced by a later one, from the replaced ones on."""
    found: list[_Built] = []
    waiting = [(binding, ()) for binding in seen if binding is not final[binding.key]]
    while waiting:
        binding, outer = waiting.pop()
        for reference in binding.references():
            built = _Built((*outer, *reference.scopes), reference.config_key[1])
            if built not in found:
                found.append(built)
                waiting += [
                    (inner, outer if inner.key.is_macro else built.scope) for inner in seen if built.takes(inner.key)
                ]
    return found
