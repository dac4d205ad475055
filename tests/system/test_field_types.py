"""Settings whose annotations say what they are, as in a user's own model."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field
from types import ModuleType

import pytest

from system.config import CheckedConfig, make_config, parse_assignments, settings_of
from system.errors import InputError

SOURCE = """
from dataclasses import dataclass, field
from typing import Any, Literal, Optional

@dataclass(frozen=True)
class Config:
    layers: int | None = None
    share: Optional[float] = 0.5
    name: str | int = 3
    kind: Literal["a", "b"] = "a"
    heads: Literal[2, 4, None] = 2
    limit: float = float("inf")
    other: Any = 0.25
    twice: int = field(init=False, default=0)

    def __post_init__(self):
        object.__setattr__(self, "twice", 2 * self.heads if self.heads else 0)
"""


def config_in(source, monkeypatch):
    module = ModuleType("a_users_module")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(source, vars(module))
    return module.Config


@pytest.fixture(params=["", "from __future__ import annotations\n"], ids=["types", "texts"])
def config(request, monkeypatch):
    return config_in(request.param + SOURCE, monkeypatch)


def test_a_text_becomes_what_the_annotation_says(config):
    texts = ["layers=3", "share=1", "name=x", "kind=b", "heads=4", "limit=2", "other=0.5"]
    values = parse_assignments(config, texts, "--set")
    assert values == {
        **{"layers": 3, "share": 1.0, "name": "x", "kind": "b", "heads": 4},
        **{"limit": 2.0, "other": 0.5},
    }
    assert [type(values[name]) for name in ("layers", "share", "heads", "other")] == [
        *(int, float, int, float)
    ]
    assert parse_assignments(config, ["name=7"], "--set") == {"name": 7}


def test_settings_come_back_from_a_file(config):
    """A field that the class itself computes is no setting."""
    made = make_config(config, {"layers": 2, "share": None, "heads": None}, "a.pth")
    assert made.twice == 0
    settings = settings_of(made)
    assert "twice" not in settings
    assert settings["limit"] == math.inf
    assert make_config(config, settings, "a.pth") == made


def test_a_field_that_a_class_of_checked_settings_computes_is_not_checked():
    """As in a user's model whose settings are those of NHFNet, and more."""

    @dataclass(frozen=True)
    class Config(CheckedConfig):
        size: int = 2
        sizes: tuple[int, int] = field(init=False)

        def __post_init__(self):
            super().__post_init__()
            object.__setattr__(self, "sizes", (self.size, 2 * self.size))

    assert Config(3).sizes == (3, 6)


def test_text_stays_text_where_the_annotation_names_it(config):
    assert make_config(config, {"name": "7"}, "a.pth").name == "7"


def test_a_number_that_an_earlier_version_wrote_as_text_is_read(config):
    assert make_config(config, {"layers": "3"}, "a.pth").layers == 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"layers": "x"}, "layers is 'x': expected a whole number"),
        ({"layers": 2.5}, "expected a whole number"),
        ({"share": "much"}, "expected a number, got 'much'"),
        ({"kind": "c"}, "expected a or b, got 'c'"),
        ({"kind": None}, "kind is None"),
        ({"heads": 3}, "expected 2 or 4, got '3'"),
        ({"limit": -math.inf}, "expected a number"),
        ({"twice": 4}, "there is no setting 'twice', only: layers, share"),
    ],
)
def test_other_values_are_refused(config, values, message):
    with pytest.raises(InputError) as caught:
        make_config(config, values, "a.pth")
    assert message in str(caught.value)


def test_a_name_for_type_checkers_only_leaves_the_other_fields_their_types(monkeypatch):
    config = config_in(
        """
from __future__ import annotations
from dataclasses import dataclass

@dataclass(frozen=True)
class Config:
    rate: Unknown = 0.5
    count: int = 2
    most: int | None = 3
""",
        monkeypatch,
    )
    values = parse_assignments(config, ["rate=1", "count=3", "most=4"], "--set")
    assert values == {"rate": 1.0, "count": 3, "most": 4}
