"""Settings: strict about keys, clear about mistakes, and honest about what is identity."""

from typing import Annotated

import pytest

from minimind.config import WHERE, Config, apply_overrides, read_toml
from minimind.errors import ConfigError, MissingError


class Inner(Config):
    learning_rate: float = 0.1


class Outer(Config):
    name: str
    inner: Inner = Inner()
    workers: Annotated[int, WHERE] = 1


def test_an_unknown_key_is_refused_and_its_nearest_match_named():
    """A mistyped setting that passes in silence is a training with the wrong numbers."""
    with pytest.raises(ConfigError, match=r"unknown key `inner\.learning_rte` \(did you mean `learning_rate`\?\)"):
        Outer.parse({"name": "x", "inner": {"learning_rte": 1}}, origin="r.toml")


def test_a_missing_key_and_a_wrong_type_are_named_with_the_file():
    with pytest.raises(ConfigError, match=r"r\.toml: `name` is missing; `inner\.learning_rate`: .*given: 'fast'"):
        Outer.parse({"inner": {"learning_rate": "fast"}}, origin="r.toml")


def test_where_a_stage_runs_is_no_part_of_its_identity():
    """Another number of workers must not rerun anything; another learning rate must."""
    base = Outer(name="x")
    assert base.identity() == base.replace(workers=8).identity()
    assert base.identity() != base.replace(inner=Inner(learning_rate=0.2)).identity()


def test_a_config_cannot_be_changed_in_place():
    with pytest.raises(ValueError, match="frozen"):
        Outer(name="x").name = "y"


@pytest.mark.parametrize(
    ("text", "value"), [("3e-4", 3e-4), ("true", True), ("[1, 2]", [1, 2]), ("words", "words"), ('"1"', "1")]
)
def test_an_override_is_read_as_toml_and_else_as_a_string(text: str, value: object):
    assert apply_overrides({"a": {"b": 0, "c": 1}}, [f"a.b={text}"]) == {"a": {"b": value, "c": 1}}


@pytest.mark.parametrize("override", ["lr", "=3", "a..b=1", "a.b.c=1"])
def test_a_malformed_override_is_an_error(override: str):
    with pytest.raises(ConfigError):
        apply_overrides({"a": {"b": 0}}, [override])


def test_a_broken_toml_file_is_named_with_its_line(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text("a = 1\nb = = 2\n")
    with pytest.raises(ConfigError, match=r"r\.toml.*line 2"):
        read_toml(path)
    with pytest.raises(MissingError, match="no such file"):
        read_toml(tmp_path / "none.toml")
    path.write_bytes(b"a = '\xff'")
    with pytest.raises(ConfigError, match="not UTF-8 at byte 5"):
        read_toml(path)
