"""An OpenAI-compatible server as a writer or a grader: its settings."""

import dataclasses
from typing import ClassVar, Literal

from tracelift_jax.remote.server import Server

Structure = Literal["json_schema", "json_object", "text"]


@dataclasses.dataclass(frozen=True)
class ChatServer(Server):
    """A server that speaks `POST {base_url}/chat/completions`, and how it is asked.

    Answers are kept by the name of the model, wherever it is served: call another model by another name.

    Attributes:
        base_url, model, key_variable, extra, concurrency, deadline, retries, backoff: see `Server`.
        temperature: None leaves it to the server.
        max_tokens: of an answer; None leaves it to the server.
        structure: how JSON is asked for beside the words of the prompt: by a schema, by kind, or not at all. Servers
            differ in what they know.
        attempts: how often an answer that cannot be used is asked for, in all.
        max_failures: requests given up after all their retries before the build stops.
        prompt_price: of a million tokens; 0: not known. completion_price: likewise.
    """

    SETTINGS: ClassVar[str] = "model, structure, temperature, max_tokens and extra"

    temperature: float | None = 0.7
    max_tokens: int | None = 4096
    structure: Structure = "json_schema"
    attempts: int = 3
    max_failures: int = 20
    prompt_price: float = 0.0
    completion_price: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least(1, "max_tokens", "attempts")
        self._at_least(0, "temperature", "max_failures", "prompt_price", "completion_price")
