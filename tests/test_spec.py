"""Data specs: found by name or path, strict about their keys, and what the stages are told."""

from pathlib import Path

import pytest

from minimind.data import spec as data_spec
from minimind.data.reading.sources import content_digests
from minimind.data.spec import clean_config, ingest_config, kinds, load_spec, shard_config
from minimind.errors import ConfigError, MissingError
from minimind.runtime import CHECKOUT

SHIPPED = sorted(path.stem for path in (CHECKOUT / "data_specs").glob("*.toml"))


def write_spec(directory: Path, text: str) -> Path:
    path = directory / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_spec_loads_and_configures_its_stages(name: str):
    """A spec in the repository that does not load is the first thing a user would meet."""
    spec = load_spec(name)
    assert spec.name == name
    for kind in kinds(spec):
        assert ingest_config(spec, kind).rows == clean_config(spec, kind).rows == shard_config(spec, kind).rows == kind


def test_the_template_needs_nothing_but_paths():
    """local.toml is meant to be copied: all kinds but prompts, every field it shows is one that exists."""
    assert kinds(load_spec("local")) == ("pretrain", "chat", "preference")
    text = (CHECKOUT / "data_specs" / "local.toml").read_text(encoding="utf-8")
    assert '# rows = "lora"' in text
    commented = [line.lstrip("# ") for line in text.splitlines() if line.startswith("# ") and "=" in line]
    keys = {line.split("=")[0].strip() for line in commented if line.split("=")[0].strip().isidentifier()}
    classes = (data_spec.DataSpec, data_spec.SourceConfig, data_spec.CleanRules)
    fields = {name for one in classes for name in one.model_fields}
    assert keys and keys <= fields


def test_every_field_is_explained():
    """data_specs/README.md is the reference; a field it does not name is a field nobody finds."""
    readme = (CHECKOUT / "data_specs" / "README.md").read_text(encoding="utf-8")
    for config in (data_spec.DataSpec, data_spec.SourceConfig, data_spec.CleanRules):
        for field in config.model_fields:
            assert f"`{field}`" in readme or f"[{field}]" in readme or f"[[{field}]]" in readme, field


def test_paths_are_relative_to_the_spec(tmp_path: Path):
    """A spec and its data can be moved together, and be used from any directory."""
    path = write_spec(tmp_path, '[[source]]\nname = "a"\nrows = "pretrain"\npath = "data/a.jsonl"\n')
    assert load_spec(path).source[0].path == str(tmp_path / "data" / "a.jsonl")


def test_unknown_name_lists_the_known_ones():
    """A misspelled name must end in the right one, not in a traceback."""
    with pytest.raises(MissingError, match="did you mean `minimind`.*known: local"):
        load_spec("minimid")


def test_missing_file_is_named(tmp_path: Path):
    """The most common mistake: a path that is not there."""
    path = write_spec(tmp_path, '[[source]]\nname = "a"\nrows = "pretrain"\npath = "gone.jsonl"\n')
    with pytest.raises(MissingError, match=r"gone\.jsonl: no such file"):
        content_digests(ingest_config(load_spec(path), "pretrain"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[source]]\nname = "a"\nrows = "pretrain"\npaht = "x"\n', "unknown key `source.0.paht`.*`path`"),
        ('[[source]]\nname = "a"\nrows = "pretrain"\n', "needs `path`"),
        ('[[source]]\nname = "a"\nrows = "chat"\nkind = "hub"\n', "needs `dataset`"),
        ('[[source]]\nname = "a"\nrows = "prompt"\nkind = "pydocs"\n', "pydocs has no prompt rows"),
        ('[[source]]\nname = "a"\nrows = "lora"\nkind = "pydocs"\n', "pydocs has no lora rows"),
        ('[[source]]\nname = "a"\nrows = "chat"\npath = "x"\nas_text = true\n', "as_text"),
        (
            '[[source]]\nname = "a"\nrows = "chat"\npath = "x"\nkeys = {text = "t"}\n',
            r"allowed: \['conversations', 'group'\]",
        ),
        ('[[source]]\nname = "a"\nrows = "pretrain"\npath = "x"\n' * 2, "two sources are named `a`"),
        ('[[source]]\nname = "a"\nrows = "pretrain"\npath = "x"\n[clean]\nlenght = false\n', "did you mean `length`"),
        ('description = "nothing"\n', "`source` is missing"),
    ],
)
def test_mistakes_in_a_spec_are_named(tmp_path: Path, text: str, message: str):
    """Unknown keys are never ignored: a switch that is misspelled would stay on in silence."""
    with pytest.raises(ConfigError, match=message):
        load_spec(write_spec(tmp_path, text))


def test_kind_without_source_is_an_error(tmp_path: Path):
    """Asking for DPO data of a spec that has none names what it has."""
    spec = load_spec(write_spec(tmp_path, '[[source]]\nname = "a"\nrows = "chat"\npath = "x"\n'))
    assert kinds(spec) == ("chat",)
    with pytest.raises(ConfigError, match="it has: chat"):
        ingest_config(spec, "preference")


def test_a_kind_of_rows_may_hold_out_its_own_share(tmp_path: Path):
    """A thousand pairs need a larger share to measure by than a million texts; what is not said is as ever."""
    body = '[[source]]\nname = "a"\nrows = "chat"\npath = "x"\n'
    spec = load_spec(write_spec(tmp_path, "validation_fraction = { preference = 0.2, lora = 0.1 }\n" + body))
    shares = {kind: shard_config(spec, kind).validation_fraction for kind in ("pretrain", "chat", "preference", "lora")}
    assert shares == {"pretrain": 0.05, "chat": 0.05, "preference": 0.2, "lora": 0.1}
    for wrong in ("{ pairs = 0.2 }", "{ preference = 1.0 }", "1.0", '"much"'):
        with pytest.raises(ConfigError, match="validation_fraction"):
            load_spec(write_spec(tmp_path, f"validation_fraction = {wrong}\n" + body))


def test_switches_reach_the_stages(tmp_path: Path):
    """What is written in the file is what the stage is given."""
    head = "validation_fraction = 0.2\nseed = 3\nmax_bad_fraction = 0.1\n"
    body = '[[source]]\nname = "a"\nrows = "chat"\npath = "x"\n[clean]\nunicode = false\n'
    spec = load_spec(write_spec(tmp_path, head + body))
    assert not clean_config(spec, "chat").unicode
    assert (shard_config(spec, "chat").validation_fraction, shard_config(spec, "chat").seed) == (0.2, 3)
    assert ingest_config(spec, "chat").max_bad_fraction == 0.1
