"""Jitted functions that a process shares."""

import functools
from collections.abc import Callable
from typing import Any

import jax


def jitted(function: Callable, *static: Any, out_shardings: Any = None) -> Any:
    """`jax.jit` of a function whose first arguments are fixed.

    The same function and arguments give the same jitted function, so that what a process does again, an evaluation of a
    second run or an experiment in a notebook, is traced and compiled once.

    Args:
        function: of a module, not made on the spot. static: hashable.
        out_shardings: hashable, or None for JAX's choice.
    """
    return _jitted(function, out_shardings, *static)


@functools.lru_cache(maxsize=64)
def _jitted(function: Callable, out_shardings: Any, *static: Any) -> Any:
    where = {} if out_shardings is None else {"out_shardings": out_shardings}
    return jax.jit(functools.partial(function, *static), **where)
