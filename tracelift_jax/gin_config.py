"""Gin files in, one tree of frozen dataclasses out, and nothing that gin 0.5 would let pass in silence.

Gin accepts a misspelt macro, a value of the wrong type, and bindings that nothing reads; it resolves an
include against the working directory only, keeps what it registered for the life of the process, and answers a
mistake with a page of traceback. So `load` drives gin's parser itself, statement by statement: it knows where each
binding was written, checks the macros before anything is built and the leftovers afterwards, and forgets
everything at the end. Every refusal is a `UserError` of one line, with `file:line` or the flag in front.

This and `cli.py` are the only modules that know gin. It relies on the internals of gin-config 0.5.0, the last
release, which `_fresh_gin`, `_CommandLine` and `_Reader` confine.
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
from typing import Any, Generic, NamedTuple, NoReturn, TypeVar

import gin
from gin import config as gin_core
from gin import config_parser

from tracelift_jax.checked import did_you_mean
from tracelift_jax.errors import UserError

T = TypeVar("T")

_REPOSITORY = Path(__file__).resolve().parents[1]
_DYNAMIC = config_parser.ImportStatement(
    "__gin__.dynamic_registration", is_from=True, alias=None, location=config_parser.Location(None, 0, None, "")
)
_NAME = re.compile(r"(\w+/)*[A-Za-z_][\w.]*")


@dataclasses.dataclass(frozen=True)
class Loaded(Generic[T]):
    """What `load` returns.

    Attributes:
      value: the one instance of the root class.
      operative: gin's operative config: every value used, defaults included. Loading it again gives an equal value.
    """

    value: T
    operative: str


class _Key(NamedTuple):
    """What a binding binds: gin's own key, where a macro NAME is (NAME, 'gin.macro', 'value')."""

    scope: str
    selector: str
    field: str

    @property
    def is_macro(self) -> bool:
        return self.selector == "gin.macro"


@dataclasses.dataclass(frozen=True)
class _Binding:
    """One binding as it was written: `name = value` at `where` (`run.gin:3`, or `--gin.NAME=VALUE`)."""

    key: _Key
    name: str
    value: Any
    where: str

    @property
    def from_flag(self) -> bool:
        return self.where.startswith("--gin.")

    def references(self) -> list[gin_core.ConfigurableReference]:
        return list(gin_core.iterate_references([self.value]))

    def macros(self) -> list[str]:
        """Names of the macros that the value mentions."""
        return [ref.config_key[0] for ref in self.references() if ref.config_key[1] == "gin.macro"]


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
            _split(binding)
            bindings.append(binding)
        elif flag.startswith("--gin"):
            raise UserError(f"{argument}: no such flag; gin's flags are --gin_file=F and --gin.NAME=VALUE")
        else:
            rest.append(argument)
    return files, bindings, rest


def load(root: type[T], files: Sequence[str], bindings: Sequence[str] = ()) -> Loaded[T]:
    """Builds `root` from gin files and command-line bindings, later ones winning over earlier ones.

    Gin's state is cleared before and after, so loads do not see each other.

    Args:
      root: a frozen dataclass; built once, by gin, with all that it refers to.
      files: gin files, relative to the working directory or to the repository.
      bindings: `NAME=VALUE`, as `--gin.NAME=VALUE` gives them. NAME is a macro (`STEPS`) or a field
        (`config.Train.steps`, also `Train.steps`). A VALUE that is not a gin value is a string: `RUN=foo/bar`.

    Raises:
      UserError: whatever is wrong with the files, the names or the values.
    """
    with _fresh_gin(root):
        reader = _Reader()
        for file in files:
            reader.read_file(_find(file, [Path()], f"gin file {file!r}"), ())
        if gin_core._inverse_lookup(root) is None:
            gin.external_configurable(root)
        reader.read_flags(bindings)
        final = {binding.key: binding for binding in reader.seen}
        _check_macros(reader.seen, final)
        _check_required(final)
        value = _build(root, final)
        _check_used(root, final)
        return Loaded(value, gin.operative_config_str())


@contextlib.contextmanager
def _fresh_gin(root: type) -> Iterator[None]:
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


class _Reader:
    """Hands statements to gin and remembers every binding with its place."""

    def __init__(self):
        self.seen: list[_Binding] = []
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
                    included = _find(statement.filename, [path.parent, Path()], wanted)
                    self.read_file(included, (*including, path.resolve()))
                    continue
                with _placed(where):
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
                name, text = _split(binding)
                where = " ".join(f"--gin.{binding}".split())
                with _placed(where):
                    scope, selector, field = config_parser.parse_binding_key(name)
                    self._bind(scope, selector, field, _flag_value(text), where)
        finally:
            gin_core._PARSE_CONTEXTS.pop()

    def _bind(self, scope: str, selector: str, field: str, value: Any, where: str) -> None:
        if not field:
            name = f"{scope}/{selector}" if scope else selector
            key = _Key(name, "gin.macro", "value")
        else:
            name = f"{scope}/{selector}.{field}" if scope else f"{selector}.{field}"
            configurable = _configurable(selector)
            _check_field(configurable.wrapped, selector, field)
            key = _Key(scope, configurable.selector, field)
        # By the name as written: a class may be imported from another module than the one that defines it.
        gin.bind_parameter(name if field else key, value)
        self.seen.append(_Binding(key, name, value, where))


@contextlib.contextmanager
def _placed(where: str) -> Iterator[None]:
    """Puts the place in front of a UserError's message."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}: {_first_line(error)}") from None


def _first_line(error: BaseException) -> str:
    """The message as it was raised: gin appends lines of its own on the way up."""
    return str(error).partition("\n")[0]


def _statements(file: Any, name: str) -> Iterator[Any]:
    """Gin's statements, with faults of spelling and of names as UserErrors that say the line."""
    try:
        yield from config_parser.ConfigParser(file, _Delegate())
    except SyntaxError as error:
        raise UserError(f"{name}:{error.lineno}: {_syntax(error)}") from None
    except tokenize.TokenError as error:
        raise UserError(f"{name}:{error.args[1][0]}: the file ends inside a value: close the bracket") from None
    except UnicodeDecodeError:
        raise UserError(f"{name}: this is not a text file") from None
    except UserError as error:  # from _Delegate; gin appends the line to the message
        line = re.search(r"\n  In .* line (\d+)\n", str(error))
        raise UserError(f"{name}:{line[1] if line else '?'}: {_first_line(error)}") from None


def _syntax(error: SyntaxError) -> str:
    token = re.search(r"Failed to parse token '(.*)'$", error.msg, re.DOTALL)
    if token:
        text = " ".join(token[1].split())
        return f"{text} is not a value: strings need quotes, macros a %, and it is True, False, None"
    return f"not gin syntax: {' '.join(error.msg.split())} In: {(error.text or '').strip()!r}"


def _find(name: str, folders: Sequence[Path], what: str) -> Path:
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


def _split(binding: str) -> tuple[str, str]:
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


def _check_macros(seen: Sequence[_Binding], final: dict[_Key, _Binding]) -> None:
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


def _refuse_unused_macro(binding: _Binding, used: dict[str, _Binding]) -> NoReturn:
    raise UserError(f"{binding.where}: nothing uses the macro {binding.name}{did_you_mean(binding.name, used)}")


def _check_required(final: dict[_Key, _Binding]) -> None:
    for binding in final.values():
        if any(ref.config_key == ("gin.REQUIRED", "gin.constant") for ref in binding.references()):
            raise UserError(f"{binding.name} has no value: give --gin.{binding.name}=... ({binding.where} asks for it)")


def _build(root: type[T], final: dict[_Key, _Binding]) -> T:
    """Calls the root once; a UserError from a `__post_init__` gets the place of the binding it speaks of."""
    try:
        return gin.get_configurable(root)()
    except UserError as error:
        message = _first_line(error)
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


def _blame(message: str, final: dict[_Key, _Binding]) -> str:
    """The place of the value of `Class.field` that a message begins with, followed through macros."""
    field = re.match(r"\w+\.\w+", message)
    places = []
    for binding in final.values():
        if field and f".{binding.key.selector}.{binding.key.field}".endswith(f".{field[0]}"):
            while isinstance(binding.value, gin_core.ConfigurableReference) and (macros := binding.macros()):
                binding = final[_Key(macros[0], "gin.macro", "value")]
            places.append(binding.where)
    return " or ".join(places)


def _check_used(root: type, final: dict[_Key, _Binding]) -> None:
    """Refuses bindings of what was never built, by gin's record of what was."""
    called = [(scope.split("/"), selector) for scope, selector in gin_core._OPERATIVE_CONFIG]
    for binding in final.values():
        key = binding.key
        scope = key.scope.split("/") if key.scope else []
        if key.is_macro and not binding.from_flag:
            continue
        if not any(selector == key.selector and built[: len(scope)] == scope for built, selector in called):
            what = binding.name.rpartition(".")[0]
            why = "nothing that uses it is" if key.is_macro else f"no {what} is"
            raise UserError(f"{binding.where}: {binding.name} changes nothing: {why} part of this {root.__name__}")
