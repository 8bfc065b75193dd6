"""The parsers of data specs and recipes: a whole configuration, or an error that names the file and the key.

An input is a byte, which says what is read, and then a TOML file; or overrides, a line each, of a recipe that ships; or
the name of a recipe or spec. What is claimed of it:

- there is a `DataSpec` or a `Recipe`, or a MiniMindError of one line that names the file and the key or line at fault;
- what there is can be written as JSON, has no number that JSON has not, and is the same when it is read again;
- the stages' own configs can be made of it;
- nothing is opened but the file, the files whose paths stand in it, and what ships; nothing is written or started.
"""

import math
import random
import re
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

from fuzz.mutation import changed, toml_text
from fuzz.target import Target, claim, scratch
from fuzz.watch import watched
from minimind import runtime
from minimind.config import Config, expanded
from minimind.data.reading.locations import is_remote
from minimind.data.spec import DataSpec, clean_config, ingest_config, kinds, load_spec, shard_config
from minimind.errors import MiniMindError
from minimind.evaluate.config import FILE_SETTINGS
from minimind.fingerprint import digest
from minimind.recipe import Recipe, load_recipe, recipe_dir, recipe_names

SPEC, RECIPE, OVERRIDES, NAMES = range(4)
"""What the first byte says."""
_WHERE = re.compile(r"`[^`]+`|line \d+|byte \d+|no such file|at end of document|too deep|thousands of digits")
_PATH_KEYS = ("path", "forget", "evaluation", "file", "deepspeed", *FILE_SETTINGS)


def check(data: bytes) -> None:
    """See above."""
    if not data:
        return
    what, content = data[0] % 4, data[1:]
    if what == NAMES:
        _check_name(content.decode("utf-8", "surrogateescape"))
    elif what == OVERRIDES:
        _check_overrides(content.decode("utf-8", "replace").splitlines()[:8])
    else:
        path = scratch() / "given.toml"
        path.write_bytes(content)
        with watched() as opened:
            made = _made(load_spec if what == SPEC else load_recipe, str(path))
        _check_opened(opened, path, content)
        if made is not None:
            _check_config(made)


def _made(load: Callable[..., Config], path: str, overrides: Sequence[str] = ()) -> Config | None:
    """What is loaded; None where that is refused, as it should be."""
    try:
        return load(path, overrides=overrides) if overrides else load(path)
    except MiniMindError as error:
        said = str(error)
        named = [f"-o {override}" for override in overrides if f"-o {override}" in said]
        claim(named or path in said, "an error names what was given", said)
        claim(named or _WHERE.search(said.replace(path, "", 1)), "an error says where the fault is", said)
        claim(overrides or said.isprintable(), "an error is one line that can be printed", said)
        return None


def _check_config(made: Config) -> None:
    written = made.model_dump_json()
    claim(type(made).model_validate_json(written) == made, "a configuration is the same when it is read again", written)
    _check_numbers(made.identity())
    digest(made.identity())
    if isinstance(made, DataSpec):
        for kind in kinds(made):
            _check_numbers(ingest_config(made, kind).identity())
            _check_numbers(shard_config(made, kind).identity())
            with suppress(MiniMindError):  # of a list of rows to forget
                clean_config(made, kind)
        for source in made.source:
            if source.path is not None and not is_remote(source.path):
                claim(Path(source.path).is_absolute(), "paths are as seen from the spec", source.path)
        return
    assert isinstance(made, Recipe)
    made.publish_config()
    made.pretrain_config(made.model.vocab_size)
    for kind in ("pretrain", "chat", "lora", "preference", "prompt"):
        made.tokens_config(kind)
    if not made.data.spec.endswith(".toml"):
        _check_name(made.data.spec)


def _check_numbers(value: Any) -> None:
    """JSON has neither NaN nor infinity, and a fingerprint of them means nothing."""
    if isinstance(value, Mapping):
        for inner in value.values():
            _check_numbers(inner)
    elif isinstance(value, list):
        for inner in value:
            _check_numbers(inner)
    claim(not isinstance(value, float) or math.isfinite(value), "a setting is a number that JSON has", value)


def _check_overrides(overrides: list[str]) -> None:
    if any("file" in override for override in overrides):
        return  # these name files of this machine
    made = _made(load_recipe, str(recipe_dir() / "quickstart.toml"), overrides)
    if made is not None:
        _check_config(made)


def _check_name(name: str) -> None:
    """A name is one of those that ship, whatever it looks like; a path ends in .toml."""
    if name.endswith(".toml"):
        return
    for load, directory in ((load_recipe, recipe_dir()), (load_spec, runtime.CHECKOUT / "data_specs")):
        with watched() as opened:
            try:
                load(name)
            except MiniMindError as error:
                claim(len(str(error)) > 20, "an error names what was given", error)
        outside = [path for path in opened if path.suffix == ".toml" and path.parent != directory]
        claim(not outside, "a name does not lead out of the directory of names", outside)


def _check_opened(opened: list[Path], path: Path, content: bytes) -> None:
    """Only what the file names by a key that is for paths, and what ships."""
    try:
        values = tomllib.loads(content.decode())
    except (ValueError, RecursionError):
        values = {}
    bases = (path.parent, Path.cwd())
    paths = [text for text in _paths(values) if "\0" not in text]
    named = {path, *((base / expanded(text)).resolve() for text in paths for base in bases)}
    ours = (Path(runtime.CHECKOUT).resolve(), *(Path(place).resolve() for place in sys.path if place), Path(sys.prefix))
    for other in opened:
        free = other in named or any(other.is_relative_to(place) for place in (*named, *ours) if place != Path("/"))
        claim(free or other == Path("/dev/null"), "nothing is opened that the file does not name", other)


def _paths(value: Any, key: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _paths(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from _paths(inner, key)
    elif isinstance(value, str) and key in _PATH_KEYS:
        yield value


def _mutate(data: bytes, rng: random.Random) -> bytes:
    what, content = data[:1] or b"\0", data[1:]
    if what[0] % 4 in (SPEC, RECIPE):
        try:
            values = changed(tomllib.loads(content.decode()), rng, WORDS, times=rng.randint(1, 3))
            return what + (toml_text(values) if isinstance(values, dict) else content)
        except (ValueError, RecursionError):
            return what + content[: rng.randint(0, len(content))] + b"\n" + rng.choice(WORDS).encode() + b" = 1\n"
    lines = content.split(b"\n")
    at = rng.randrange(len(lines))
    lines[at] = rng.choice([lines[at], rng.choice(_OVERRIDES)]) + rng.choice(_ENDS)
    return what + b"\n".join(lines)


def _names(model: type[Config]) -> set[str]:
    """The names of all settings in `model` and below it, and the words they may be."""
    found = set(model.model_fields)
    waiting = [field.annotation for field in model.model_fields.values()]
    while waiting:
        annotation = waiting.pop()
        if isinstance(annotation, type) and issubclass(annotation, Config):
            found |= _names(annotation)
        elif isinstance(annotation, str):
            found.add(annotation)
        else:
            waiting += get_args(annotation)
    return found


def _seeds() -> Mapping[str, bytes]:
    found = {}
    for path in sorted((Path(runtime.CHECKOUT) / "data_specs").glob("*.toml")):
        found[f"spec {path.stem}"] = bytes([SPEC]) + path.read_bytes()
    for name in recipe_names():
        found[f"recipe {name}"] = bytes([RECIPE]) + (recipe_dir() / f"{name}.toml").read_bytes()
        found[f"name {name}"] = bytes([NAMES]) + name.encode()
    found["spec of all keys"] = bytes([SPEC]) + _ALL_KEYS
    found["overrides"] = bytes([OVERRIDES]) + b"\n".join(_OVERRIDES[:4])
    return found


_ENDS = (b"", b".", b"..", b"/", b"=", b"[", b"inf", b"\0")
_OVERRIDES = (
    b"pretrain.epochs=2",
    b"sft.lr=1e-3",
    b"model.dim=64",
    b'name="x"',
    b"data.spec=pydocs",
    b"evaluate.seed=3",
    b"gate.at_least.arithmetic_passed=0.5",
    b"pretrain={}",
)
_ALL_KEYS = b"""
name = "all"
forget = "forget.jsonl"
validation_fraction = {pretrain = 0.01, chat = 0.1}
[[source]]
name = "a"
rows = "pretrain"
path = "rows/*.jsonl"
keys = {text = "meta.body", group = "id"}
weight = 2.0
[[source]]
name = "b"
kind = "hub"
rows = "chat"
dataset = "owner/name"
file = "a.jsonl"
shape = "sharegpt"
limit = 10
[clean]
languages = ["en"]
evaluation = ["questions.jsonl"]
"""
WORDS = tuple(
    sorted({*_names(DataSpec), *_names(Recipe), "true", "inf", "nan", "[[source]]", "1979-05-27", "~x/y", "../x"})
)
_FOLDERS = {"spec": bytes([SPEC]), "recipe": bytes([RECIPE])}
TARGET = Target("spec", check, _seeds(), WORDS, _mutate, max_bytes=6000, folders=_FOLDERS)
