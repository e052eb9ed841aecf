"""What a box sees of this machine: the interpreter, its standard library and shared libraries, read-only; no more."""

import functools
import glob
import os
import sys
import sysconfig
from pathlib import Path

TEMPORARY = "/tmp"
"""The only folder of a box that can be written, and its working folder."""

_DEVICES = ("null", "zero", "full", "random", "urandom")
_DEV_BYTES = 65536


def interpreter() -> str:
    """The program file of the running Python, virtual environments and links resolved."""
    return os.path.realpath(getattr(sys, "_base_executable", "") or sys.executable)


@functools.cache
def mount_arguments() -> tuple[str, ...]:
    """What bubblewrap is told to mount, all but the writable folder, whose size differs."""
    arguments, shown = [], []
    for path in (*_shared_libraries(), *_python()):
        if not any(os.path.commonpath([path, covering]) == covering for covering in shown):
            shown.append(path)
    for path in shown:
        # Made as they are here they might be closed to the user of the box, as a home is.
        for parent in reversed(Path(path).parents[:-1]):
            arguments += ["--perms", "0755", "--dir", str(parent)]
        arguments += ["--ro-bind", path, path]
    for path in sorted(found for folder in shown for found in _packages(folder)):
        arguments += ["--tmpfs", path, "--remount-ro", path]
    arguments += ["--perms", "0755", "--size", str(_DEV_BYTES), "--tmpfs", "/dev"]
    for name in _DEVICES:
        arguments += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
    # Semaphores of multiprocessing are files there.
    arguments += ["--symlink", TEMPORARY, "/dev/shm", "--remount-ro", "/dev"]
    return tuple(arguments)


def _shared_libraries() -> list[str]:
    """The C library and its like: those of this architecture where the system keeps them apart, else all."""
    kind = sysconfig.get_config_var("MULTIARCH")
    apart = [path for path in (f"/lib/{kind}", f"/usr/lib/{kind}") if os.path.isdir(path)]
    loaders = glob.glob("/lib/ld-linux*") + glob.glob("/lib64/ld-linux*")
    together = [path for path in ("/lib", "/lib64", "/usr/lib", "/usr/lib64") if os.path.isdir(path)]
    cache = [path for path in ("/etc/ld.so.cache",) if os.path.isfile(path)]
    return [*(apart or together), *loaders, *cache]


def _python() -> list[str]:
    """The interpreter, its standard library, and libraries that came with it."""
    base = os.path.realpath(sys.base_prefix)
    library = os.path.realpath(sysconfig.get_config_var("LIBDIR") or os.path.join(base, "lib"))
    own = base not in ("/usr", "/usr/local") and os.path.commonpath([base, library]) == base
    libraries = [library] if own else sorted(glob.glob(f"{glob.escape(library)}/libpython3*"))
    standard = sorted({os.path.realpath(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")})
    return [path for path in (*libraries, *standard, interpreter()) if os.path.exists(path)]


def _packages(folder: str) -> list[str]:
    """Folders of installed packages within one that is shown: a box has the standard library alone."""
    within = glob.escape(folder)
    found = [*glob.glob(f"{within}/*-packages"), *glob.glob(f"{within}/python3*/*-packages")]
    return [path for path in found if os.path.isdir(path) and not os.path.islink(path)]
