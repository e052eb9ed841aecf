"""The modules of a box as one piece of code, for where the project is not installed."""

import functools
import types
from pathlib import Path

from tracelift_jax.tasks.sandbox import inside

PACKAGE = inside.__name__
_FOLDER = Path(inside.__file__).parent
_SHARED = ("wire", "serve", "check")

LOADER = """
def load(package, modules):
    import sys
    parts = package.split(".")
    for i in range(len(parts)):
        name = ".".join(parts[: i + 1])
        sys.modules[name] = type(sys)(name)
        sys.modules[name].__path__ = []
    for name, code in modules:
        module = type(sys)(package + "." + name)
        sys.modules[module.__name__] = module
        exec(code, module.__dict__)
        setattr(sys.modules[package], name, module)
    return module
"""
"""Python that defines `load`, which makes modules of (name, source or code) and gives the last."""


@functools.cache
def compiled(last: str) -> tuple[tuple[str, types.CodeType], ...]:
    """The modules, `last` at the end, for an interpreter of this very version."""
    return tuple((name, compile(source, f"box/{name}.py", "exec")) for name, source in _sources(last))


@functools.cache
def standalone() -> str:
    """Python of any version from 3.10 that does what `inside.alone` says."""
    return f"{LOADER}\nload({PACKAGE!r}, {_sources('alone')!r}).main()\n"


def _sources(last: str) -> tuple[tuple[str, str], ...]:
    return tuple((name, (_FOLDER / f"{name}.py").read_text(encoding="utf-8")) for name in (*_SHARED, last))
