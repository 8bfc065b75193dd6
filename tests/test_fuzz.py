"""What the fuzzer claims of any bytes holds for its seeds, for what was ever found, and for some mutations of both.

Nothing of the fuzzer itself is needed here; `fuzz` finds, this keeps.
"""

import io
import random
import tomllib
import zlib
from functools import cache
from pathlib import Path

import pyarrow as pa
import pytest

from fuzz import rows, server, spec
from fuzz.mutation import changed, toml_text
from fuzz.session import Finds
from fuzz.target import Broken, Target, claim
from minimind.data.reading.unpacking import Unpacked

FINDS = Path(__file__).with_name("fuzz_finds")
"""A folder for each target, a file for each find: its name is what it broke."""
TARGETS = {target.name: target for target in (rows.TARGET, spec.TARGET, server.TARGET)}
MUTATIONS = 2
"""Of each seed; the fuzzer makes millions."""


@cache
def inputs(name: str) -> dict[str, bytes]:
    """The seeds of a target and what was found with it, by name."""
    found = {path.name: path.read_bytes() for path in sorted((FINDS / name).iterdir())}
    return {**TARGETS[name].seeds, **found}


EVERY_INPUT = [(name, label) for name in TARGETS for label in inputs(name)]


@pytest.mark.parametrize(("name", "label"), EVERY_INPUT)
def test_the_claims_hold_for_every_seed_and_every_find(name: str, label: str):
    """A find is mended once and for all, and the seeds are what the fuzzer starts from."""
    TARGETS[name].check(inputs(name)[label])


@pytest.mark.parametrize(("name", "label"), EVERY_INPUT)
def test_the_claims_hold_near_every_seed_and_every_find(name: str, label: str):
    """What broke once often breaks again one step beside it; the same steps every time."""
    target, rng = TARGETS[name], random.Random(zlib.crc32(label.encode()))
    for _ in range(MUTATIONS):
        target.check(target.mutate(inputs(name)[label], rng))


def test_a_claim_that_does_not_hold_is_found(tmp_path: Path):
    """Or the fuzzer would run for hours and find nothing: each cause is kept once, with the input."""
    finds = Finds(tmp_path)
    for data in (b"a", b"b"):
        with pytest.raises(Broken, match="two is one") as broken:
            claim(len(data) == 2, "two is one", data)
        finds.keep(data, broken.value)
    (kept,) = tmp_path.glob("*.bin")
    assert kept.read_bytes() == b"a" and kept.with_suffix(".txt").read_text().startswith("two is one\n")


@pytest.mark.parametrize("target", TARGETS.values(), ids=list(TARGETS))
def test_mutations_differ_and_are_the_same_every_time(target: Target):
    """A mutation that changes nothing is an execution for nothing; one that cannot be repeated, a find for nothing."""
    for data in target.seeds.values():
        made = [target.mutate(data, random.Random(seed)) for seed in range(20)]
        assert len(set(made)) > 5
        assert made == [target.mutate(data, random.Random(seed)) for seed in range(20)]


def test_a_packed_file_that_was_read_leaves_nothing_behind():
    """Each .zst file once left its buffers, more than a megabyte: a circle through pyarrow that nobody could see."""
    packed = pa.compress(b'{"text": "x"}\n' * 1000, codec="zstd", asbytes=True)
    before = pa.total_allocated_bytes()
    for _ in range(3):
        file = Unpacked(io.BytesIO(packed), "a.jsonl.zst")
        while file.read(1 << 16):
            pass
        del file
    assert pa.total_allocated_bytes() == before


def test_structure_survives_mutation():
    """Most changed specs are still TOML, else only its parser would be tested."""
    whole = 0
    for seed in range(50):
        values = changed({"a": {"b": [1, {"c": "é\n\x7f"}]}, "d": 0.5}, random.Random(seed), ["x", "y"])
        try:
            whole += not isinstance(values, dict) or bool(tomllib.loads(toml_text(values).decode()) or True)
        except tomllib.TOMLDecodeError:
            continue
    assert whole > 40
