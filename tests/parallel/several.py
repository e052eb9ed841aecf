"""Several real processes on this machine that run one program, with virtual CPU devices each."""

import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing

from tiny import ROOT, subprocess_environment


def free_port() -> int:
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start_all(processes: int, devices: int, arguments: Sequence[str], **more: str) -> list[subprocess.Popen]:
    """Starts `python ARGUMENTS` in each; one process needs no coordinator."""
    address = f"127.0.0.1:{free_port()}"
    started = []
    for number in range(processes):
        told = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(processes), "JAX_PROCESS_ID": str(number)}
        started.append(
            subprocess.Popen(
                [sys.executable, *arguments],
                cwd=ROOT,
                env=subprocess_environment(devices, **(told if processes > 1 else {}), **more),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return started


def ends(started: Sequence[subprocess.Popen], timeout: float = 400) -> list[tuple[int, str, str]]:
    """(exit code, output, errors) of each; all are gone afterwards."""
    try:
        told = [process.communicate(timeout=timeout) for process in started]
        return [(process.returncode, *both) for process, both in zip(started, told, strict=True)]
    finally:
        for process in started:
            process.kill()
