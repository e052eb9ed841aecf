"""Gin's parser, driven statement by statement: every binding remembered with the place it was written.

Relies on the internals of gin-config 0.5.0, the last release, which `fresh_gin`, `_CommandLine` and `Reader` confine.
"""

import contextlib
import dataclasses
import inspect
import os
import pkgutil
import re
import sys
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gin
from gin import config as gin_core
from gin import config_parser

from tracelift_jax.checked import did_you_mean
from tracelift_jax.errors import UserError

_REPOSITORY = Path(__file__).resolve().parents[1]
_DYNAMIC = config_parser.ImportStatement(
    "__gin__.dynamic_registration", is_from=True, alias=None, location=config_parser.Location(None, 0, None, "")
)
_NAME = re.compile(r"(\w+/)*[A-Za-z_][\w.]*")


class Key(NamedTuple):
    """What a binding binds: gin's own key, where a macro NAME is (NAME, 'gin.macro', 'value')."""

    scope: str
    selector: str
    field: str

    @property
    def is_macro(self) -> bool:
        """Whether this is a macro and not a field."""
        return self.selector == "gin.macro"


@dataclasses.dataclass(frozen=True)
class Binding:
    """One binding as it was written: `name = value` at `where` (`run.gin:3`, or `--gin.NAME=VALUE`)."""

    key: Key
    name: str
    value: Any
    where: str

    @property
    def from_flag(self) -> bool:
        """Whether it was written on the command line."""
        return self.where.startswith("--gin.")

    def references(self) -> list[gin_core.ConfigurableReference]:
        """The `@names` and `%names` in the value."""
        return list(gin_core.iterate_references([self.value]))

    def macros(self) -> list[str]:
        """Names of the macros that the value mentions."""
        return [ref.config_key[0] for ref in self.references() if ref.config_key[1] == "gin.macro"]


@contextlib.contextmanager
def fresh_gin(root: type) -> Iterator[None]:
    """Starts with no bindings, and ends by forgetting them and every class registered meanwhile."""
    known = dict(gin_core._REGISTRY.items())
    gin.clear_config()
    gin_core._IMPORTS.add(_DYNAMIC)  # so that the operative config can be loaded again, even without any file
    try:
        yield
    finally:
        gin.clear_config()
        for selector, configurable in list(gin_core._REGISTRY.items()):
            # What a module registers by decorator when first imported must stay: it is imported only once.
            if selector not in known and (configurable.import_source or configurable.wrapped is root):
                gin_core._REGISTRY.pop(selector)
                gin_core._INVERSE_REGISTRY.pop(configurable.wrapped)


class _CommandLine(gin_core.ParseContext):
    """Names as `--gin.` flags may use them: what any file imported, and short names such as `Train`."""

    def get_configurable(self, selector: str) -> Any:
        if selector.split(".")[0] in self._symbol_table:
            return super().get_configurable(selector)
        return gin_core._REGISTRY.get_match(selector)


class _Delegate(gin_core.ParserDelegate):
    """Gin's maker of `@references`, with our words for a name that does not exist."""

    def configurable_reference(self, scoped_selector: str, evaluate: bool) -> Any:
        _configurable(scoped_selector.rsplit("/", 1)[-1])
        return super().configurable_reference(scoped_selector, evaluate)


class _Syntax(config_parser.ParserDelegate):
    """Accepts any reference: to learn whether a text is a gin value at all."""

    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> None:
        del scoped_configurable_name, evaluate

    def macro(self, macro_name: str) -> None:
        del macro_name


class Reader:
    """Hands statements to gin and remembers every binding with its place."""

    def __init__(self):
        self.seen: list[Binding] = []
        self._imports: list[config_parser.ImportStatement] = []

    def read_file(self, path: Path, including: tuple[Path, ...]) -> None:
        """Reads a file and what it includes, each with imports of its own, as gin has it."""
        if path.resolve() in including:
            raise UserError(f"{path}: this file includes itself: {' -> '.join(p.name for p in (*including, path))}")
        with gin_core._parse_scope() as context, _open(path) as file:
            for statement in _statements(file, str(path)):
                where = f"{path}:{statement.location.line_num}"
                if isinstance(statement, config_parser.IncludeStatement):
                    wanted = f"{where}: include {statement.filename!r}"
                    included = find_file(statement.filename, [path.parent, Path()], wanted)
                    self.read_file(included, (*including, path.resolve()))
                    continue
                with placed(where):
                    if isinstance(statement, config_parser.ImportStatement):
                        _import(context, statement)
                    elif isinstance(statement, config_parser.BlockDeclaration):
                        _configurable(statement.selector)
                    else:
                        self._bind(statement.scope, statement.selector, statement.arg_name, statement.value, where)
            gin_core._IMPORTS.update(context.imports)
            self._imports += context.imports

    def read_flags(self, bindings: Sequence[str]) -> None:
        """Reads `NAME=VALUE` bindings, which see the imports of all the files."""
        context = _CommandLine()
        for statement in (_DYNAMIC, *(s for s in self._imports if not s.module.startswith("__gin__"))):
            context.process_import(statement)
        gin_core._PARSE_CONTEXTS.append(context)
        try:
            for binding in bindings:
                name, text = split_binding(binding)
                where = " ".join(f"--gin.{binding}".split())
                with placed(where):
                    scope, selector, field = config_parser.parse_binding_key(name)
                    self._bind(scope, selector, field, _flag_value(text), where)
        finally:
            gin_core._PARSE_CONTEXTS.pop()

    def _bind(self, scope: str, selector: str, field: str, value: Any, where: str) -> None:
        if not field:
            name = f"{scope}/{selector}" if scope else selector
            key = Key(name, "gin.macro", "value")
        else:
            name = f"{scope}/{selector}.{field}" if scope else f"{selector}.{field}"
            configurable = _configurable(selector)
            _check_field(configurable.wrapped, selector, field)
            key = Key(scope, configurable.selector, field)
        # By the name as written: a class may be imported from another module than the one that defines it.
        gin.bind_parameter(name if field else key, value)
        self.seen.append(Binding(key, name, value, where))


@contextlib.contextmanager
def placed(where: str) -> Iterator[None]:
    """Puts the place in front of a UserError's message."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}: {first_line(error)}") from None


def first_line(error: BaseException) -> str:
    """The message as it was raised: gin appends lines of its own on the way up."""
    return str(error).partition("\n")[0]


def _statements(file: Any, name: str) -> Iterator[Any]:
    """Gin's statements, with faults of spelling and of names as UserErrors that say the line."""
    try:
        yield from config_parser.ConfigParser(file, _Delegate())
    except SyntaxError as error:
        raise UserError(f"{name}:{error.lineno}: {_syntax(error)}") from None
    except tokenize.TokenError as error:
        raise UserError(f"{name}:{_unreadable(error)}") from None
    except UnicodeDecodeError:
        raise UserError(f"{name}: this is not a text file") from None
    except UserError as error:  # from _Delegate; gin appends the line to the message
        line = re.search(r"\n  In .* line (\d+)\n", str(error))
        raise UserError(f"{name}:{line[1] if line else '?'}: {first_line(error)}") from None


def _unreadable(error: tokenize.TokenError) -> str:
    """Line and words. To Python 3.11 a file ends behind its last line, to later versions on it."""
    said, (line, _) = error.args
    if "multi-line statement" in said:
        return f"{line - (sys.version_info < (3, 12))}: the file ends inside a value: close the bracket"
    if "multi-line string" in said or "triple-quoted" in said:
        return f"{line}: the file ends inside a value: close the quotes"
    return f"{line}: not gin syntax: {said}"


def _syntax(error: SyntaxError) -> str:
    token = re.search(r"Failed to parse token '(.*)'$", error.msg, re.DOTALL)
    if token:
        text = " ".join(token[1].split())
        return f"{text} is not a value: strings need quotes, macros a %, and it is True, False, None"
    return f"not gin syntax: {' '.join(error.msg.split())} In: {(error.text or '').strip()!r}"


def find_file(name: str, folders: Sequence[Path], what: str) -> Path:
    """Finds a file in the folders or in the repository."""
    tried = [Path(os.path.normpath(folder / Path(name).expanduser())) for folder in (*folders, _REPOSITORY)]
    for path in tried:
        if path.is_file():
            return path
    beside = [entry.name for path in tried if path.parent.is_dir() for entry in path.parent.glob("*.gin")]
    raise UserError(f"{what} does not exist{did_you_mean(Path(name).name, beside)}")


def _open(path: Path) -> Any:
    try:
        return path.open(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None


def _import(context: gin_core.ParseContext, statement: config_parser.ImportStatement) -> None:
    """Imports a module for a file; a module of another name, or one it needs, may be missing."""
    if statement.module.startswith("__gin__.") and statement.module != _DYNAMIC.module:
        raise UserError(f"gin has no {statement.module!r}; write {_DYNAMIC.format()!r}")
    if statement.bound_name() == "gin":
        raise UserError("the name gin is taken by gin itself: import the module `as` another name")
    try:
        context.process_import(statement)
    except SyntaxError as error:
        if (error.filename or "").endswith(".py"):
            raise
        raise UserError(" ".join(error.msg.split())) from None
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if not f"{statement.module}.".startswith(f"{missing}."):
            raise UserError(f"{statement.format()!r} failed: {missing} is not installed") from None
        parent, _, last = missing.rpartition(".")
        package = sys.modules.get(parent)
        if package is not None and hasattr(package, last):
            raise UserError(f"{missing} is not a module: import {parent}, and write its name before .{last}") from None
        folders = getattr(package, "__path__", []) if parent else None
        siblings = [module.name for module in pkgutil.iter_modules(folders)]
        raise UserError(f"there is no module {missing!r}{did_you_mean(last, siblings)}") from None


def _configurable(selector: str) -> Any:
    """Finds the class or function that a name means in the file being read."""
    context = gin_core._parse_context()
    names, table = selector.split("."), context._symbol_table
    if names[0] not in table:
        try:
            found = context.get_configurable(selector)
        except NameError:
            found = None
        except KeyError as error:
            raise UserError(str(error.args[0]).rstrip(".")) from None
        if found:
            return found
        if not context._dynamic_registration:
            raise UserError(f"{selector} is unknown: begin the file with `from __gin__ import dynamic_registration`")
        known = sorted(name for name in table if name != "gin")
        hint = did_you_mean(names[0], known) or f"; imported are: {', '.join(known) or 'none'}"
        raise UserError(f"{selector}: nothing named {names[0]!r} is imported{hint}")
    value = table[names[0]]
    for depth, name in enumerate(names[1:], 1):
        if not hasattr(value, name):
            public = [candidate for candidate in dir(value) if not candidate.startswith("_")]
            raise UserError(f"{'.'.join(names[:depth])} has no {name!r}{did_you_mean(name, public)}")
        value = getattr(value, name)
    if not (callable(value) and hasattr(value, "__name__")):
        raise UserError(f"{selector} is not a class or function")
    return context.get_configurable(selector)


def _check_field(function: Any, selector: str, field: str) -> None:
    parameters = inspect.signature(function).parameters
    if field not in parameters and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        raise UserError(f"{selector} has no field {field!r}{did_you_mean(field, parameters)}")


def split_binding(binding: str) -> tuple[str, str]:
    """`NAME=VALUE` as (NAME, VALUE)."""
    name, equals, text = binding.partition("=")
    if not _NAME.fullmatch(name):
        flag = " ".join(f"--gin.{binding}".split())
        raise UserError(f"{flag}: {name!r} is not a name; write --gin.STEPS=10 or --gin.config.Train.steps=10")
    if not equals:
        raise UserError(f"--gin.{name} needs a value: --gin.{name}=...")
    return name, text


def _flag_value(text: str) -> Any:
    """Reads a flag's value as gin does; what is not a gin value, such as foo/bar or 7B, is a string."""
    if not _is_gin_value(text):
        if text.lstrip()[:1] in tuple("@%([{'\""):
            raise UserError("the value is not gin syntax (a shell may have taken its quotes)")
        return text
    return config_parser.ConfigParser(text, _Delegate()).parse_value()


def _is_gin_value(text: str) -> bool:
    try:
        parser = config_parser.ConfigParser(text, _Syntax())
        parser.parse_value()
        parser._skip([tokenize.NEWLINE, tokenize.NL, tokenize.COMMENT])
        return getattr(parser.current_token, "type", None) == tokenize.ENDMARKER
    except (SyntaxError, tokenize.TokenError):
        return False
