"""The checker's side: runs a check, in which what the program defines stands for calls over the pipe.

What the program must not know, the values it is compared with, stays here, and so do the comparisons: results arrive
as plain values, and of other objects only whether they are the same one.
"""

import _ast
import builtins
import os

from tracelift_jax.tasks.sandbox.inside import wire

# Not from typing: see wire.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

LOST = "the program ended while it was called"
_TEXT = 500


def run(text: bytes, fd: int, report: int) -> "NoReturn":
    """Runs a check and reports the status of the run, a new line, and what there is to say; ends the process."""
    status, error = verdict(text, fd)
    os.write(report, f"{status}\n{error}".encode("utf-8", "replace"))
    os._exit(0)


def verdict(text: bytes | str, fd: int) -> tuple[str, str]:
    """The status of the run of a check, and what there is to say: one line."""
    status, error = _verdict(text, fd)
    return status, " ".join(error[:_TEXT].split())


def _verdict(text: bytes | str, fd: int) -> tuple[str, str]:
    try:
        tree = compile(text, "check", "exec", _ast.PyCF_ONLY_AST, dont_inherit=True)
        code = compile(text, "check", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return "infrastructure", f"the check is no Python: {error}"
    peer = _Peer(fd)
    try:
        names = {"__name__": "check", "__builtins__": builtins}
        names.update(peer.names(_read(tree)))
        exec(code, names)
    except BaseException as error:
        if peer.lost:
            return "raised", LOST
        said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        if error not in peer.raised:
            return "failed", said
        return ("memory" if isinstance(error, MemoryError) else "raised"), said
    if peer.lost:
        return "raised", LOST
    return "ok", ""


def _read(tree: _ast.AST) -> set[str]:
    """The names that a check reads."""
    found, nodes = set(), [tree]
    while nodes:
        node = nodes.pop()
        if isinstance(node, _ast.Name):
            found.add(node.id)
        for field in node._fields:
            value = getattr(node, field, None)
            nodes += [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, _ast.AST)]
    return found


class _Same(list[object]):
    """Objects told apart by identity: exceptions may say that they equal any other."""

    def __contains__(self, value: object) -> bool:
        return any(value is item for item in self)


class _Peer:
    """The program at the other end.

    Attributes:
        lost: whether it has gone, or sends what is no message. raised: its exceptions.
    """

    def __init__(self, fd: int):
        self.fd, self.lost, self.raised = fd, False, _Same()
        self.proxies: dict[int, _Proxy] = {}

    def names(self, read: set[str]) -> "dict[str, Any]":
        """What the program defines of the names that a check reads.

        A built-in function is the program's only where nothing else of it is read: else a program that defines `abs`
        would change what the check itself computes.
        """
        defined = self._decode(self._receive())
        if not isinstance(defined, list):
            self._lose()
        mine = [name for name in sorted(read) if name in defined and not name.startswith("__")]
        own = [name for name in mine if not hasattr(builtins, name)]
        return {name: self.ask("global", name) for name in own or mine}

    def ask(self, what: str, *values: object, **keywords: object) -> "Any":
        """Has one thing done."""
        parts = [*values, *(part for pair in keywords.items() for part in pair)]
        encoded = [wire.encode(part, _number) for part in parts]
        request = wire.encode([what, len(values), *encoded], _number)
        if self.lost:
            raise wire.Closed
        try:
            wire.send(self.fd, request)
        except wire.Closed:
            self._lose()
        answer = self._decode(self._receive())
        if not isinstance(answer, tuple) or len(answer) != 3:
            self._lose()
        if answer[0] == "raised":
            raise self._exception(*answer[1:])
        if not isinstance(answer[2], list):
            self._lose()
        for change in answer[2]:
            self._change(parts, change)
        return answer[1]

    def proxy(self, number: int) -> "_Proxy":
        """What stands for an object of the program: always the same for the same object."""
        return self.proxies.setdefault(number, _Proxy(self, number))

    def _receive(self) -> bytes:
        try:
            return wire.receive(self.fd)
        except (wire.Closed, wire.WireError):
            self._lose()

    def _decode(self, data: bytes) -> "Any":
        try:
            return wire.decode(data, self.proxy)
        except wire.WireError:
            self._lose()

    def _lose(self) -> "NoReturn":
        self.lost = True
        raise wire.Closed

    def _exception(self, kinds: "Any", text: object) -> BaseException:
        known = [getattr(builtins, kind, None) for kind in kinds if isinstance(kind, str)]
        for kind in known:
            if isinstance(kind, type) and issubclass(kind, Exception):
                try:
                    error = kind(str(text))
                except TypeError:
                    continue
                break
        else:
            error = RuntimeError(f"{kinds}: {text}")
        self.raised.append(error)
        return error

    def _change(self, parts: list[object], change: object) -> None:
        """Does to an argument what the program did to the copy that it got."""
        if not isinstance(change, tuple) or len(change) != 2 or type(change[0]) is not int:
            self._lose()
        place, new = change
        if not 0 <= place < len(parts) or type(parts[place]) is not type(new):
            self._lose()
        old = parts[place]
        if isinstance(old, (list, bytearray)):
            old[:] = new
        elif isinstance(old, (dict, set)):
            old.clear()
            old.update(new)


class _Proxy:
    """Stands for an object of the program; equal only to itself.

    It has no `__contains__`: Python then compares one item after another, here.
    """

    __slots__ = ("_number", "_peer")

    def __init__(self, peer: _Peer, number: int):
        object.__setattr__(self, "_peer", peer)
        object.__setattr__(self, "_number", number)

    def __call__(self, *arguments: object, **keywords: object) -> "Any":
        return self._peer.ask("call", self, *arguments, **keywords)

    def __getattr__(self, name: str) -> "Any":
        return self._peer.ask("getattr", self, name)

    def __setattr__(self, name: str, value: object) -> None:
        self._peer.ask("setattr", self, name, value)

    def __getitem__(self, key: object) -> "Any":
        return self._peer.ask("getitem", self, key)

    def __setitem__(self, key: object, value: object) -> None:
        self._peer.ask("setitem", self, key, value)

    def __delitem__(self, key: object) -> None:
        self._peer.ask("delitem", self, key)

    def __len__(self) -> int:
        return self._peer.ask("len", self)

    def __iter__(self) -> "Any":
        iterator = self._peer.ask("iter", self)
        return iterator if isinstance(iterator, _Proxy) else iter(iterator)

    def __next__(self) -> "Any":
        return self._peer.ask("next", self)

    def __bool__(self) -> bool:
        return self._peer.ask("bool", self)

    def __str__(self) -> str:
        return self._peer.ask("str", self)

    def __repr__(self) -> str:
        return self._peer.ask("repr", self)


def _number(value: object) -> int:
    if isinstance(value, _Proxy):
        return value._number
    raise TypeError(f"a check cannot pass a {type(value).__name__} to a program")
