"""The page of all that a gin file can name: `python docs/configuration.py` writes docs/configuration.md.

Names, types, defaults and meanings are those of the dataclasses in `tracelift_jax.config`; only their order is here.
"""

import collections.abc
import dataclasses
import inspect
import re
import types
import typing
from pathlib import Path
from typing import Any, NamedTuple

from tracelift_jax import config
from tracelift_jax.models.transformer import ModelConfig

PAGE = Path(__file__).parent / "configuration.md"

SECTIONS = {
    "Experiments": ("Train", "TrainRm", "Sft", "Evaluate", "Scorer", "Recipe", "Prepare"),
    "Roles and models": ("Roles", "Model", "Shape", "LoraConfig", "Adapter"),
    "Words and sampling": ("Prompts", "Frame", "Chat", "Sampling"),
    "Rewards": ("RewardConfig", "CodeRewardConfig", "BaselineFile", "SandboxConfig", "Limits"),
    "Training": (
        "GrpoConfig",
        "RewardModelLossConfig",
        "OptimizerConfig",
        "Schedule",
        "Evaluation",
        "Guard",
        "ProcessBench",
    ),
    "Tasks": (
        "DialTask",
        "ImperfectDial",
        "JsonlTask",
        "Fields",
        "DialCode",
        "CodeTask",
        "CodeFields",
        "HumanEval",
        "Mbpp",
    ),
    "Groups": ("DialGroups", "GroupFiles"),
    "Evaluations": ("Benchmark", "ExecutorModel", "ServedExecutor"),
    "Servers": ("ExecutorServer", "ChatServer", "Service"),
    "Devices": ("MeshConfig", "Rules"),
}
"""Every class of `tracelift_jax.config`, once."""

PROTOCOLS = {
    "Task": "a [task](#tasks)",
    "GroupSource": "[groups](#groups)",
    "OwnReward": "[a reward of yours](extending.md#a-reward)",
}
"""Fields of these types take any object that has their methods."""

REPEATED = 60
"""A meaning that several fields share is written again for each of them where it is no longer than this."""

HEAD = """\
# Configuration

Every class that a gin file can name, with each field's type, default and meaning. This page is made from the classes
themselves by `python docs/configuration.py`; a test fails where it is out of date.

```gin
from __gin__ import dynamic_registration
from tracelift_jax import config
include 'experiments/dial/planner.gin'

STEPS = 20                                       # a macro: %STEPS stands for it, --gin.STEPS=20 changes it
config.Train.batch_size = 8                      # a field
config.Train.optimizer = @config.OptimizerConfig()   # a field whose value is another class: its own fields follow
config.OptimizerConfig.learning_rate = 1e-4
config.Roles.planner = @planner/config.Sampling()    # two of one class: each under a scope
planner/config.Sampling.temperature = 0.7
```

- On the command line: `--gin.STEPS=20`, `--gin.Train.batch_size=8`, `--gin.planner/config.Sampling.temperature=0.7`.
  Later files win over earlier ones, and flags over files. What is no gin value is a string: `--gin.BASE=models/base`.
- A class that no binding mentions has its defaults; **required** fields have none.
- What does not exist, is of the wrong type, out of range or changes nothing is refused in one line with its place; the
  words that you will read are in [troubleshooting.md](troubleshooting.md).
- `config.gin` in a run directory says all values a run had, defaults included, and is itself a gin file.
- Letters: `B` problems, `G` traces of a problem, `K` samples of a trace; `D` width of the model, `F` of its
  feed-forward part, `L` layers, `H` heads, `N` key-value heads, `Q` width of a head, `V` vocabulary. METHOD is
  [method.md](method.md).
- Modules of yours can be imported and named in the same way: [extending.md](extending.md).
"""


class Meaning(NamedTuple):
    """What a field means, and the fields it is said of together."""

    fields: tuple[str, ...]
    text: str


def page() -> str:
    """The whole page."""
    listed = [name for names in SECTIONS.values() for name in names]
    if sorted(listed) != sorted(config.__all__):
        raise ValueError(f"SECTIONS and config.__all__ differ in {sorted(set(listed) ^ set(config.__all__))}")
    parts = [HEAD]
    for section, names in SECTIONS.items():
        parts.append(f"\n## {section}\n")
        parts += [class_part(getattr(config, name)) for name in names]
    return "".join(parts)


def class_part(cls: type) -> str:
    """Heading, first line, where it is used, and a row a field."""
    known = meanings(cls)
    hints = typing.get_type_hints(cls)
    rows = []
    for field in dataclasses.fields(cls):
        if not field.init:
            continue
        if field.name not in known:
            raise ValueError(f"{cls.__name__}.{field.name} is not among the Attributes of its docstring")
        meaning = known[field.name]
        first = meaning.fields[0]
        text = meaning.text if field.name == first or len(meaning.text) <= REPEATED else f"see `{first}`"
        cells = (f"`{field.name}`", type_shown(hints[field.name]), default_shown(field), text)
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n")
    used = used_by(cls)
    where = f"\nValue of {', '.join(used)}.\n" if used else ""
    table = "".join(["\n| field | type | default | meaning |\n|---|---|---|---|\n", *rows])
    return f"\n### {cls.__name__}\n\n{summary(cls)}\n{where}{table}"


def summary(cls: type) -> str:
    """The first paragraph of a docstring; of one that only points at its base, the base's."""
    first = (inspect.getdoc(cls) or "").split("\n\n")[0]
    pointed = re.match(r"`(\w+)`, with its values checked", first)
    if pointed:
        return summary(next(base for base in cls.__mro__ if base.__name__ == pointed[1]))
    return " ".join(first.split())


def meanings(cls: type) -> dict[str, Meaning]:
    """Field by field what the docstrings of a class and its bases say, the class's own words first."""
    found: dict[str, Meaning] = {}
    for base in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        for name, meaning in _attributes(base).items():
            pointed = re.match(r"see `(\w+?)(?:\.(\w+))?`[.;]? ?(.*)", meaning.text)
            if not pointed:
                found[name] = meaning
            elif pointed[2]:  # of another class, and perhaps some words more
                there = _attributes({"ModelConfig": ModelConfig}[pointed[1]])[pointed[2]].text
                found[name] = Meaning(meaning.fields, f"{there} {pointed[3]}".strip())
    return found


def _attributes(cls: Any) -> dict[str, Meaning]:
    """The Attributes section: `name: text. name, name: text.`, several of them on one line or one on several."""
    section = re.search(r"\n\nAttributes:\n((?: +.*\n?|\n(?= ))+)", inspect.getdoc(cls) or "")
    if not section:
        return {}
    one = "|".join(field.name for field in dataclasses.fields(cls))
    parts = re.split(rf"(?:^|(?<=[.;]) )((?:{one})(?:, (?:{one}))*): ", " ".join(section[1].split()))
    found = {}
    for names, text in zip(parts[1::2], parts[2::2], strict=True):
        fields = tuple(names.split(", "))
        found |= dict.fromkeys(fields, Meaning(fields, re.sub(r"\[(.*?)\]", r"\\[\1\\]", text.strip().rstrip(";"))))
    return found


def type_shown(hint: Any) -> str:
    """A type in words, with links to the classes of this page."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return " or ".join(f"`{value!r}`" for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_shown(argument) for argument in arguments)
    if origin is tuple:
        many = arguments[-1] is Ellipsis
        return f"tuple of {type_shown(arguments[0])}" if many else f"({', '.join(map(type_shown, arguments))})"
    if origin is collections.abc.Mapping:
        return "dict"
    if hint is type(None):
        return "`None`"
    if hint.__name__ in PROTOCOLS:
        return PROTOCOLS[hint.__name__]
    return f"[{hint.__name__}](#{hint.__name__.lower()})" if hint.__name__ in config.__all__ else hint.__name__


def default_shown(field: dataclasses.Field) -> str:
    """A default as a gin file would have it."""
    if field.default_factory is not dataclasses.MISSING:
        return f"`{field.default_factory()!r}`"
    if field.default is dataclasses.MISSING:
        return "**required**"
    return f"`{value_shown(field.default)}`"


def value_shown(value: Any) -> str:
    """A value; of a class only what is not its default."""
    if not dataclasses.is_dataclass(value):
        return repr(value)
    changed = [
        f"{field.name}={value_shown(getattr(value, field.name))}"
        for field in dataclasses.fields(value)
        if getattr(value, field.name) != field.default
    ]
    return f"{type(value).__name__}({', '.join(changed)})"


def used_by(cls: type) -> list[str]:
    """The fields of other classes that name this class in their type."""
    found = []
    for name in config.__all__:
        user = getattr(config, name)
        for field, hint in typing.get_type_hints(user).items():
            if user is not cls and cls in _inside(hint):
                found.append(f"`{name}.{field}`")
    return found


def _inside(hint: Any) -> list[Any]:
    return [hint, *(inner for argument in typing.get_args(hint) for inner in _inside(argument))]


if __name__ == "__main__":
    PAGE.write_text(page())
