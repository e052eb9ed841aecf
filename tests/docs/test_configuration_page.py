"""The configuration page is the one its script writes, and says of each field what its class says."""

import dataclasses
import re

import pytest
from pages import DOCS, blocks, script

from tracelift_jax import config, gin_config

made = script(DOCS / "configuration.py")
PAGE = DOCS / "configuration.md"


def rows(name: str) -> list[list[str]]:
    """The rows of a class's table."""
    part = re.search(rf"^### {name}\n(.*?)(?=^#|\Z)", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert part, name
    lines = [line for line in part[1].splitlines() if line.startswith("| `")]
    return [[cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_the_page_is_up_to_date():
    assert PAGE.read_text() == made.page(), "python docs/configuration.py writes it again"


@pytest.mark.parametrize("name", config.__all__)
def test_every_field_has_its_default_and_a_meaning(name):
    fields = [field for field in dataclasses.fields(getattr(config, name)) if field.init]
    assert [row[0] for row in rows(name)] == [f"`{field.name}`" for field in fields]
    for field, (_, kind, default, meaning) in zip(fields, rows(name), strict=True):
        assert kind and meaning, field.name
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            assert default == "**required**"
        elif isinstance(field.default, int | float | str | None):
            assert default == f"`{field.default!r}`"


def test_rows_written_out_by_hand():
    assert rows("Sampling")[1][:3] == ["`temperature`", "float", "`1.0`"]
    assert rows("Sampling")[1][3] == "divides the logits; 0 takes the most likely token."
    assert rows("Recipe")[3][1] == "tuple of `'engine'` or [ChatServer](#chatserver)"
    assert rows("Roles")[3][1:3] == ["[LoraConfig](#loraconfig) or [Adapter](#adapter) or `None`", "`LoraConfig()`"]
    # Several fields of one line, of another class, and of a base.
    assert [row[3] for row in rows("Shape")[:3]] == ["D.", "F.", "L."]
    assert rows("MeshConfig")[2][3] == "see `data`"
    assert 'none" keeps all' in rows("Model")[6][3] and 'attention = "splash"' in rows("Model")[6][3]
    assert rows("ExecutorServer")[4] == ["`concurrency`", "int", "`64`", "requests in flight at a time."]
    reward = {row[0]: row for row in rows("CodeRewardConfig")}
    assert reward["`uplift`"][3].startswith('"sampled" or "none"') and reward["`repeats`"][3].startswith("K,")


def test_a_field_without_a_meaning_is_refused():
    @dataclasses.dataclass(frozen=True)
    class Bare:
        """A class.

        Attributes:
            told: what it is.
        """

        told: int = 1
        untold: int = 2

    with pytest.raises(ValueError, match=r"Bare\.untold is not among"):
        made.class_part(Bare)


def test_the_gin_of_the_page_loads(tmp_path):
    [text] = blocks(PAGE.read_text(), "gin")
    (tmp_path / "some.gin").write_text(text)
    train = gin_config.load(config.Train, [str(tmp_path / "some.gin")], ["STEPS=7", "Train.batch_size=4"]).value
    assert (train.schedule.steps, train.batch_size, train.optimizer.learning_rate) == (7, 4, 1e-4)
    assert (train.roles.planner.temperature, train.roles.executor.temperature) == (0.7, 0.5)
    flags = ["planner/config.Sampling.temperature=0.9"]
    assert gin_config.load(config.Train, [str(tmp_path / "some.gin")], flags).value.roles.planner.temperature == 0.9
