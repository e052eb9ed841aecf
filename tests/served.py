"""Executors by rule, to be put behind a `chat_service`, and the flags that have a run ask them."""

import hashlib
import json
import re
from pathlib import Path

from chat_service import Asked
from tiny import ROOT

NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
SERVER_GIN = ROOT / "experiments" / "executors" / "server.gin"


def flags(gin: Path, url: str, *more: str) -> tuple[str, ...]:
    """An experiment with its executor at `url`, asked again soon."""
    files = (f"--gin_file={gin}", f"--gin_file={SERVER_GIN}")
    return (*files, f"--gin.URL={url}", "--gin.EXECUTOR=scripted", "--gin.ExecutorServer.backoff=0.01", *more)


def reasoning_in(prompt: str) -> str | None:
    """What stands between the tags, or None where there are none."""
    body = re.search(r"<reasoning>(.*?)</reasoning>", prompt, re.DOTALL)
    return body and body[1]


def last_number(text: str) -> str:
    return (NUMBER.findall(text) or ["none"])[-1].replace(",", "")


def follow(asked: Asked, number: int) -> str:
    """Follows the reasoning to its last number; without reasoning it does not know."""
    reasoning = reasoning_in(asked.prompt)
    return " I do not know." if reasoning is None else f" {last_number(reasoning)}"


def dice(asked: Asked, number: int) -> bytes:
    """Random bytes of an answer: by prompt, seed and place alone."""
    return hashlib.sha256(json.dumps([asked.prompt, asked.body["seed"], number]).encode()).digest()


def noisy(asked: Asked, number: int) -> str:
    """Mostly follows the reasoning to its last digit; else, and without reasoning, it guesses, or does not know."""
    drawn = dice(asked, number)
    digits = re.findall(r"\d", reasoning_in(asked.prompt) or "")
    if digits and drawn[0] % 4:
        return f" {digits[-1]}"
    return (f" {drawn[1] % 10}", f" {2 * (drawn[1] % 4)}", " I do not know.", "")[drawn[2] % 4]
