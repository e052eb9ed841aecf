"""Which sandbox programs run in; there is no falling back on a weaker one."""

import dataclasses
import os
import urllib.parse
from typing import Literal

from tracelift_jax.checked import check_types, require
from tracelift_jax.tasks.sandbox.bubblewrap import Bubblewrap
from tracelift_jax.tasks.sandbox.pool import Closing, Pool
from tracelift_jax.tasks.sandbox.program import Limits
from tracelift_jax.tasks.sandbox.remote import Remote
from tracelift_jax.tasks.sandbox.unprotected import Unprotected


@dataclasses.dataclass(frozen=True)
class SandboxConfig:
    """Where programs run, and what each may use.

    Attributes:
        backend: "bubblewrap" on this machine; "remote" on a server that speaks SandboxFusion's format.
        url: of that server, as in "http://sandbox:8080"; for "remote" alone.
        workers: programs at a time; 0: as many as there are cores.
        limits: of each program.
        most_failed: the share of a batch's programs for which the sandbox may fail; beyond it the run stops.
        danger_run_unprotected: run programs with this process's own rights: they can read its keys, delete its files
            and use its network. For "bubblewrap" alone, which is then not used.
    """

    backend: Literal["bubblewrap", "remote"] = "bubblewrap"
    url: str = ""
    workers: int = 0
    limits: Limits = Limits()
    most_failed: float = 0.1
    danger_run_unprotected: bool = False

    def __post_init__(self) -> None:
        check_types(self)
        require(self.workers >= 0, f"SandboxConfig.workers must not be negative, got {self.workers}")
        require(0 <= self.most_failed < 1, f"SandboxConfig.most_failed must lie in [0, 1), got {self.most_failed}")
        remote = self.backend == "remote"
        require(
            not (remote and self.danger_run_unprotected),
            "SandboxConfig.danger_run_unprotected is for this machine; leave it out where backend is 'remote'",
        )
        if remote:
            parts = urllib.parse.urlsplit(self.url)
            known = parts.scheme in ("http", "https") and bool(parts.netloc)
            require(known, f"SandboxConfig.url must be like http://sandbox:8080, got {self.url!r}")
        else:
            require(not self.url, f"SandboxConfig.url is for backend='remote', got {self.url!r}")

    @property
    def threads(self) -> int:
        """Programs at a time."""
        return self.workers or len(os.sched_getaffinity(0))


def open_sandbox(config: SandboxConfig) -> Closing:
    """A sandbox that has been seen to work.

    Raises:
        UserError: there is none here; the message says how to get it.
    """
    if config.backend == "remote":
        return Remote(config.url, config.threads)
    return Unprotected() if config.danger_run_unprotected else Bubblewrap()


def open_pool(config: SandboxConfig) -> Pool:
    """A pool over a sandbox that has been seen to work.

    Raises:
        UserError: there is none here; the message says how to get it.
    """
    return Pool(open_sandbox(config), config.threads)
