"""A server that speaks OpenAI's wire format: where it is, and how patiently it is asked."""

import dataclasses
import json
import re
import urllib.parse
from collections.abc import Mapping
from typing import Any, ClassVar

from tracelift_jax.checked import check_types, require


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
class Server:
    """A model on a server.

    Attributes:
        base_url: up to and with the version, as in "http://localhost:8000/v1".
        model: the name of the model.
        key_variable: the environment variable that holds the key; where it is not set, as for most local servers, a
            placeholder is sent.
        extra: further fields of the request, such as {"top_k": 20} or {"reasoning_effort": "low"}; None takes a field
            out, as in {"max_tokens": None, "max_completion_tokens": 256}.
        concurrency: requests in flight at a time.
        deadline: seconds that one request may take.
        retries: how often a request that met 429, 5xx, a deadline or a broken connection is sent again.
        backoff: seconds before the first retry, more or less; twice as many before each further one, and what
            Retry-After says where there is one.
    """

    SETTINGS: ClassVar[str] = "model and extra"
    """The fields that a server may refuse."""

    base_url: str
    model: str
    key_variable: str = "OPENAI_API_KEY"
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)
    concurrency: int = 8
    deadline: float = 120.0
    retries: int = 6
    backoff: float = 1.0

    def __post_init__(self) -> None:
        check_types(self)
        kind, url = type(self).__name__, self.base_url
        require(_is_address(url), f"{kind}.base_url must be like http://localhost:8000/v1, got {url!r}")
        require(_is_json(self.extra), f"{kind}.extra must be what JSON can hold, got {self.extra!r}")
        require(bool(self.model), f"{kind}.model must not be empty")
        self._at_least(1, "concurrency")
        self._at_least(0, "retries")
        for name in ("deadline", "backoff"):
            require(getattr(self, name) > 0, f"{kind}.{name} must be above 0, got {getattr(self, name)}")

    def _at_least(self, least: int, *names: str) -> None:
        for name in names:
            value, must = getattr(self, name), f"be at least {least}" if least else "not be negative"
            require(value is None or value >= least, f"{type(self).__name__}.{name} must {must}, got {value}")

    def __str__(self) -> str:
        return f"{self.base_url} ({self.model})"
