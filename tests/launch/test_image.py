"""The Dockerfile, as far as it can be checked without an image: what it copies, installs and starts."""

import configparser
import fnmatch
import os
import re
import subprocess

import pytest
from launchers import ROOT

TEXT = (ROOT / "Dockerfile").read_text()
LINES = [line for line in re.sub(r"\\\n", " ", TEXT).splitlines() if line and not line.startswith("#")]


def instructions(name: str) -> list[str]:
    return [line.partition(" ")[2] for line in LINES if line.startswith(f"{name} ")]


def ignored(path: str) -> bool:
    """By .dockerignore: the last pattern that fits decides; a folder's pattern covers what is in it."""
    verdict = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        if not line or line.startswith("#"):
            continue
        parts = path.split("/")
        heads = ["/".join(parts[: i + 1]) for i in range(len(parts))]
        deep = pattern.startswith("**/") and pattern.removeprefix("**/") in parts
        if deep or any(head == pattern or ("/" not in head and fnmatch.fnmatch(head, pattern)) for head in heads):
            verdict = not line.startswith("!")
    return verdict


def test_what_is_copied_is_there_and_sent_to_the_builder():
    sources = [source for line in instructions("COPY") for source in line.split()[:-1]]
    assert {"setup.cfg", "README.md", "LICENSE", "tracelift_jax", "experiments"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists()
        assert not ignored(source)


@pytest.mark.parametrize(
    "path", ["runs/a", "models/x", ".git/config", ".venv/bin/python", ".env", "tracelift_jax/__pycache__/a.pyc"]
)
def test_nothing_else_is_sent(path):
    assert ignored(path)
    assert not ignored("tracelift_jax/cli.py")


@pytest.mark.parametrize("extras", ["", "cuda", "tpu"])
def test_the_extras_are_the_project_s_own(tmp_path, extras):
    (install,) = [line for line in instructions("RUN") if "pip install" in line]
    pip = tmp_path / "pip"
    pip.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    pip.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "EXTRAS": extras}
    done = subprocess.run(["sh", "-c", install], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["install", "--no-cache-dir", f".[{extras}]" if extras else "."]
    setup = configparser.ConfigParser(interpolation=None)
    setup.read(ROOT / "setup.cfg")
    assert not extras or extras in setup["options.extras_require"]
    assert not extras or f"--build-arg=EXTRAS={extras}" in TEXT


def test_it_starts_tracelift_with_the_sandbox_s_program_at_hand():
    assert instructions("ENTRYPOINT") == ['["tini", "--", "tracelift"]']
    (packages,) = [line for line in instructions("RUN") if "apt-get install" in line]
    assert {"bubblewrap", "tini"} <= set(packages.split())
