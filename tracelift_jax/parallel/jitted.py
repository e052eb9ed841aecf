"""Jitted functions that a process shares, and that take each array once."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax


def jitted(function: Callable, *static: Any, out_shardings: Any = None) -> "Jitted":
    """A `Jitted` of a function whose first arguments are fixed.

    The same function and arguments give the same jitted function, so that what a process does again, an evaluation of a
    second run or an experiment in a notebook, is traced and compiled once.

    Args:
        function: of a module, not made on the spot. static: hashable.
        out_shardings: hashable, or None for JAX's choice.
    """
    return _jitted(function, out_shardings, *static)


@functools.lru_cache(maxsize=64)
def _jitted(function: Callable, out_shardings: Any, *static: Any) -> "Jitted":
    return Jitted(functools.partial(function, *static), out_shardings)


class Jitted:
    """`jax.jit`, but an array that stands in several places of the arguments is one parameter of the compiled program.

    The roles of a planner share a base. As parameters of their own the compiler would count it once a role, and refuse
    a program that fits.
    """

    def __init__(self, function: Callable, out_shardings: Any = None, donate: bool = False):
        """Args: function: of positional arguments. out_shardings: None for JAX's choice. donate: the first argument."""
        self._names = tuple(inspect.signature(function).parameters)[int(donate) :]
        self._donate = donate

        def run(donated: Any, shared: _Once) -> Any:
            return function(donated, *shared.places()) if donate else function(*shared.places())

        where = {} if out_shardings is None else {"out_shardings": out_shardings}
        self._jit = jax.jit(run, donate_argnums=0, **where)

    def __call__(self, *arguments: Any) -> Any:
        """What the function gives."""
        return self._jit(*self._split(arguments))

    def lower(self, *arguments: Any) -> Any:
        """As `jax.jit(...).lower`.

        The program's parameters are named `shared.NAME...` by the first place of each array; the first argument's
        `donated...`, where it is.
        """
        return self._jit.lower(*self._split(arguments))

    def eval_shape(self, *arguments: Any) -> Any:
        """As `jax.jit(...).eval_shape`."""
        return self._jit.eval_shape(*self._split(arguments))

    def _split(self, arguments: tuple[Any, ...]) -> tuple[Any, "_Once"]:
        donated, rest = (arguments[0], arguments[1:]) if self._donate else (None, arguments)
        return donated, _once(self._names, rest)


@jax.tree_util.register_pytree_with_keys_class
class _Once:
    """Arguments, each array once.

    Attributes:
        arrays: different ones. names: where the first of each stands. order: which of them stands in each place.
        tree: of all places.
    """

    def __init__(self, arrays: tuple[Any, ...], names: tuple[str, ...], order: tuple[int, ...], tree: Any):
        self.arrays, self.names, self.order, self.tree = arrays, names, order, tree

    def places(self) -> Any:
        """The arguments."""
        return jax.tree.unflatten(self.tree, [self.arrays[index] for index in self.order])

    def tree_flatten_with_keys(self) -> tuple[Any, Any]:
        """For JAX."""
        keyed = [(jax.tree_util.GetAttrKey(name), x) for name, x in zip(self.names, self.arrays, strict=True)]
        return keyed, (self.names, self.order, self.tree)

    def tree_flatten(self) -> tuple[Any, Any]:
        """For JAX."""
        return self.arrays, (self.names, self.order, self.tree)

    @classmethod
    def tree_unflatten(cls, aux: Any, arrays: Any) -> "_Once":
        """For JAX."""
        return cls(tuple(arrays), *aux)


def _once(names: tuple[str, ...], arguments: tuple[Any, ...]) -> _Once:
    """Arguments by identity: an array that is equal to another but not the same stays one of its own."""
    named = [jax.tree_util.tree_flatten_with_path(argument) for argument in arguments]
    places: dict[int, int] = {}
    arrays, firsts, order = [], [], []
    for name, (leaves, _) in zip(names, named, strict=True):
        for path, leaf in leaves:
            index = places.setdefault(id(leaf), len(arrays))
            order.append(index)
            if index == len(arrays):
                arrays.append(leaf)
                firsts.append(name + jax.tree_util.keystr(path))
    return _Once(tuple(arrays), tuple(firsts), tuple(order), jax.tree.structure(arguments))
