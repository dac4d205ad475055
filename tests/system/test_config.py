"""Settings as checked dataclasses."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from system.argument_types import OneOf, name_or_path, positive_number, truth_value, whole_number
from system.config import CheckedConfig, make_config, parse_assignments, plain_values, setting
from system.errors import InputError


@dataclass(frozen=True)
class Example(CheckedConfig):
    count: int = setting(3, whole_number(1, 9))
    rate: float = setting(0.5, positive_number)
    most: float | None = setting(None, positive_number)
    is_on: bool = setting(False, truth_value)
    where: Path = setting(Path("here"), Path)
    kind: str = setting("a", OneOf("a", "b"))


@dataclass(frozen=True)
class Unchecked:
    """A Config as in a user's own model."""

    size: int = 2
    share: float = 0.5
    name: str = "x"
    deep: bool = True


# Drawing and parsing are quick; a busy machine is not.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@patient
@given(st.dictionaries(st.sampled_from([f.name for f in fields(Example)]), json_values))
def test_any_values_make_a_config_or_one_line(values):
    try:
        config = make_config(Example, values, "file.json")
    except InputError as error:
        assert str(error).startswith("file.json: ")
        assert "\n" not in repr(str(error))
    else:
        assert 1 <= config.count <= 9
        assert 0 < config.rate < math.inf
        assert config.most is None or 0 < config.most < math.inf
        assert type(config.is_on) is bool
        assert config.kind in ("a", "b")
        again = json.loads(json.dumps(plain_values(config)))
        assert make_config(Example, again, "again") == config


@patient
@given(st.dictionaries(st.sampled_from(["size", "share", "name", "deep"]), json_values))
def test_a_config_without_checks_is_checked_by_its_types(values):
    try:
        config = make_config(Unchecked, values, "file.json")
    except InputError:
        return
    assert type(config.size) is int
    assert type(config.share) is float
    assert math.isfinite(config.share)
    assert type(config.name) is str
    assert type(config.deep) is bool


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": "3"}, "count is '3'"),
        ({"count": True}, "count is True"),
        ({"count": 0}, "at least 1"),
        ({"rate": math.nan}, "above 0"),
        ({"rate": None}, "rate is None"),
        ({"is_on": 1}, "true or false"),
        ({"kind": "c"}, "a or b"),
        ({"nothing": 1}, "there is no setting 'nothing', only: count, rate"),
    ],
)
def test_what_is_wrong_is_named(values, message):
    with pytest.raises(InputError) as caught:
        make_config(Example, values, "run.json")
    assert message in str(caught.value)


def test_a_config_checks_itself_when_it_is_made():
    with pytest.raises(ValueError, match="count is 10"):
        Example(count=10)
    assert Example(rate=1).rate == 1.0


def test_assignments_have_the_types_of_the_fields_and_the_last_one_counts():
    values = parse_assignments(Unchecked, ["size=5", "share=1", "deep=False", "name=a=b"], "--set")
    assert values == {"size": 5, "share": 1.0, "deep": False, "name": "a=b"}
    assert parse_assignments(Example, ["count=2", "count=4"], "--set") == {"count": 4}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("count", "expected KEY=VALUE"),
        ("size=2", "only: count, rate, most, is_on, where, kind"),
        ("count=x", "got 'x'"),
        ("count=", "got ''"),
        ("=3", "there is no setting ''"),
    ],
)
def test_assignments_that_cannot_be_are_refused(text, message):
    with pytest.raises(InputError, match=f"--set {text}: ") as caught:
        parse_assignments(Example, [text], "--set")
    assert message in str(caught.value)


def test_a_files_path_below_the_home_directory_is_taken():
    @dataclass(frozen=True)
    class Named(CheckedConfig):
        encoder: str = setting("a name", name_or_path)

    config = make_config(Named, {"encoder": "~/bert"}, "file.json")
    assert config.encoder == str(Path.home() / "bert")
