"""An OpenAI-compatible server as a writer or a grader: its settings."""

import dataclasses
import json
import re
import urllib.parse
from collections.abc import Mapping
from typing import Any, Literal

from tracelift_jax.checked import check_types, require

Structure = Literal["json_schema", "json_object", "text"]


def _is_address(url: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(url)
        host = parts.hostname if parts.port != 0 else None  # reading the port raises where it is none
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(host) and not re.search(r"\s", url)


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


@dataclasses.dataclass(frozen=True)
class ChatServer:
    """A server that speaks `POST {base_url}/chat/completions`, and how it is asked.

    Attributes:
        base_url: up to and with the version, as in "http://localhost:8000/v1".
        model: the name of the model. Answers are kept by it, wherever it is served: call another model by another name.
        key_variable: the environment variable that holds the key; where it is not set, as for most local servers, a
            placeholder is sent.
        temperature: None leaves it to the server.
        max_tokens: of an answer; None leaves it to the server.
        extra: further fields of the request, such as {"max_completion_tokens": 4096} or {"reasoning_effort": "low"}.
        structure: how JSON is asked for beside the words of the prompt: by a schema, by kind, or not at all. Servers
            differ in what they know.
        concurrency: requests in flight at a time, of this writer or grader.
        deadline: seconds that one request may take.
        retries: how often a request that met 429, 5xx, a deadline or a broken connection is sent again.
        backoff: seconds before the first retry, more or less; twice as many before each further one, and what
            Retry-After says where there is one.
        attempts: how often an answer that cannot be used is asked for, in all.
        max_failures: requests given up after all their retries before the build stops.
        prompt_price: of a million tokens; 0: not known. completion_price: likewise.
    """

    base_url: str
    model: str
    key_variable: str = "OPENAI_API_KEY"
    temperature: float | None = 0.7
    max_tokens: int | None = 4096
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)
    structure: Structure = "json_schema"
    concurrency: int = 8
    deadline: float = 120.0
    retries: int = 6
    backoff: float = 1.0
    attempts: int = 3
    max_failures: int = 20
    prompt_price: float = 0.0
    completion_price: float = 0.0

    def __post_init__(self) -> None:
        check_types(self)
        require(
            _is_address(self.base_url),
            f"ChatServer.base_url must be like http://localhost:8000/v1, got {self.base_url!r}",
        )
        require(_is_json(self.extra), f"ChatServer.extra must be what JSON can hold, got {self.extra!r}")
        require(bool(self.model), "ChatServer.model must not be empty")
        for name in ("max_tokens", "concurrency", "attempts"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"ChatServer.{name} must be at least 1, got {value}")
        for name in ("temperature", "retries", "max_failures", "prompt_price", "completion_price"):
            value = getattr(self, name)
            require(value is None or value >= 0, f"ChatServer.{name} must not be negative, got {value}")
        for name in ("deadline", "backoff"):
            value = getattr(self, name)
            require(value > 0, f"ChatServer.{name} must be above 0, got {value}")
