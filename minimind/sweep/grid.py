"""What a sweep varies: settings with several values each, and the points, every combination of them.

`sft.lr=1e-4,3e-4,1e-3` is a setting with three values. Values are cut at commas outside of quotes and brackets, and
each is read as `-o` reads one: as TOML, else as a word. One value alone is no sweep; it holds for all points.
Not here: whether a setting is known (the recipe says), and whether it makes a difference (the plan of a point says).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from itertools import product
from typing import Any

from minimind.config import apply_overrides
from minimind.errors import ConfigError

CLOSING = {"[": "]", "{": "}"}
EXAMPLE = "-o sft.lr=1e-4,3e-4,1e-3"


@dataclass(frozen=True)
class Setting:
    """A key of the recipe, and the values it is to have."""

    key: str
    texts: tuple[str, ...]
    """As they were typed."""

    @cached_property
    def values(self) -> tuple[Any, ...]:
        return tuple(_read(self.key, text) for text in self.texts)

    @property
    def is_seed(self) -> bool:
        """Whether its values are chances and not choices."""
        return self.key.rpartition(".")[2] == "seed"


@dataclass(frozen=True)
class Point:
    """One combination of values."""

    number: int
    """From 1, in the order they run."""
    name: str
    """`lr=3e-4 seed=1`."""
    texts: dict[str, str]
    """Key → value as it was typed."""
    settings: dict[str, Any]
    """Key → value."""
    overrides: tuple[str, ...]
    """These, and those that hold for all points, for a flow."""


@dataclass(frozen=True)
class Grid:
    """All combinations of the values of some settings."""

    swept: tuple[Setting, ...]
    fixed: tuple[str, ...] = ()
    """`section.key=value` of the settings that have one value."""

    @property
    def names(self) -> dict[str, str]:
        """Key → the shortest name that tells it from the others: `lr`, or `sft.lr` beside `dpo.lr`."""
        last = [setting.key.rpartition(".")[2] for setting in self.swept]
        return {s.key: name if last.count(name) == 1 else s.key for s, name in zip(self.swept, last, strict=True)}

    @property
    def sections(self) -> list[str]:
        """The sections of the recipe that are swept, each once."""
        return list(dict.fromkeys(setting.key.partition(".")[0] for setting in self.swept))

    @cached_property
    def points(self) -> tuple[Point, ...]:
        """In the order of the values, the last setting changing first."""
        choices = product(*(range(len(setting.texts)) for setting in self.swept))
        return tuple(self._point(number, chosen) for number, chosen in enumerate(choices, 1))

    def _point(self, number: int, chosen: Sequence[int]) -> Point:
        texts = {s.key: s.texts[place] for s, place in zip(self.swept, chosen, strict=True)}
        return Point(
            number=number,
            name=" ".join(f"{self.names[key]}={bare(text)}" for key, text in texts.items()),
            texts=texts,
            settings={s.key: s.values[place] for s, place in zip(self.swept, chosen, strict=True)},
            overrides=(*self.fixed, *(f"{key}={text}" for key, text in texts.items())),
        )


def read_grid(overrides: Sequence[str]) -> Grid:
    """The grid that options spell out. Raises ConfigError where there is nothing to compare, or something twice."""
    swept, fixed, seen = list[Setting](), list[str](), set[str]()
    for override in overrides:
        dotted, equals, text = override.partition("=")
        key = ".".join(part.strip() for part in dotted.split("."))
        if not equals or not all(key.split(".")):
            raise ConfigError(f"-o {override}: write it as section.key=value,value,…, for example {EXAMPLE}")
        if key in seen:
            raise ConfigError(f"{key} is given twice; write all its values into one -o {key}=value,value,…")
        seen.add(key)
        setting = Setting(key, tuple(split_values(text, option=f"-o {override}")))
        swept.append(setting) if len(setting.texts) > 1 else fixed.append(override)
        _refuse_same_values(setting)
    if not swept:
        given = f"each of {', '.join(sorted(seen))} has one value" if seen else "no setting is given"
        raise ConfigError(f"there is nothing to compare: {given}; give one of them several, for example {EXAMPLE}")
    return Grid(tuple(swept), tuple(fixed))


def split_values(text: str, *, option: str) -> list[str]:
    """`text` cut at the commas that stand outside of quotes and brackets. `option` is for the message of an error."""
    values, start, closing, quote, skip = list[str](), 0, list[str](), "", False
    for place, sign in enumerate(text):
        if skip:
            skip = False
        elif quote:
            skip = sign == "\\" and quote == '"'
            quote = "" if sign == quote else quote
        elif sign in "\"'":
            quote = sign
        elif sign in CLOSING:
            closing.append(CLOSING[sign])
        elif closing and sign == closing[-1]:
            closing.pop()
        elif sign == "," and not closing:
            values.append(text[start:place].strip())
            start = place + 1
    if quote or closing:
        raise ConfigError(f"{option}: {quote or closing[-1]} is missing at the end of a value")
    values.append(text[start:].strip())
    if not all(values):
        raise ConfigError(f'{option}: a value is empty; write "" for an empty text, and no comma after the last value')
    return values


def bare(text: str) -> str:
    """A value as it is shown: a quoted word without its quotes."""
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"
    return text[1:-1] if quoted and text[0] not in text[1:-1] else text


def _read(key: str, text: str) -> Any:
    """A value as `-o key=text` would set it."""
    table: Mapping[str, Any] = apply_overrides({}, [f"{key}={text}"])
    return reduce(lambda inner, part: inner[part], key.split("."), table)


def _refuse_same_values(setting: Setting) -> None:
    for place, value in enumerate(setting.values):
        for earlier in range(place):
            if type(setting.values[earlier]) is type(value) and setting.values[earlier] == value:
                one, other = setting.texts[earlier], setting.texts[place]
                same = f"{one} twice" if one == other else f"{one} and {other}, which are the same"
                raise ConfigError(f"{setting.key} has {same}")
