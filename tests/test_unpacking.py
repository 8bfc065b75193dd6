"""Unpacking: whole archives give their bytes, all others one clear error."""

import gzip
import io
import random
from collections.abc import Callable

import pytest
import zstandard

from minimind.data.reading import unpacking
from minimind.data.reading.unpacking import Unpacked
from minimind.errors import DataError

LINES = b'{"text": "hello"}\n' * 20_000
NOISE = random.Random(0).randbytes(300_000)
PACK = pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
Pack = Callable[[bytes], bytes]


def unpack(data: bytes, name: str = "a.jsonl.gz") -> bytes:
    file = Unpacked(io.BytesIO(data), name)
    return b"".join(iter(lambda: file.read(100_000), b""))


@PACK
@pytest.mark.parametrize("content", [LINES, NOISE, b"x", b""])
def test_archives_are_unpacked_whatever_their_name(pack: Pack, content: bytes):
    """The first bytes say what a file is; its name may lie."""
    assert unpack(pack(content), "a.jsonl") == content


@PACK
def test_archives_one_after_the_other_are_one_file(pack: Pack):
    """`cat a.gz b.gz` is how logs and corpora are joined; empty ones happen between them."""
    assert unpack(pack(LINES) + pack(b"") + pack(NOISE)) == LINES + NOISE


def test_a_plain_file_is_passed_through():
    """Nothing is lost at its start, where the packing was looked for."""
    assert unpack(LINES, "a.jsonl") == LINES
    assert unpack(b"{", "a.jsonl") == b"{" and unpack(b"", "a.jsonl.gz") == b""


@PACK
@pytest.mark.parametrize("content", [LINES, NOISE])
@pytest.mark.parametrize("left", [5, 12, 0.5, -9, -1])
def test_a_cut_off_archive_is_an_error_at_any_place(pack: Pack, content: bytes, left: float):
    """A download that broke must not pass for a shorter file; some readers of zstd are silent."""
    packed = pack(content)
    cut = packed[: int(left * len(packed))] if isinstance(left, float) else packed[: int(left)]
    with pytest.raises(DataError, match=r"a\.jsonl\.gz: .*(cut off|damaged).*fetch it again"):
        unpack(cut)
    with pytest.raises(DataError):
        unpack(packed + cut)


@PACK
def test_damage_and_garbage_behind_the_end_are_errors(pack: Pack):
    """The sum at the end of an archive is there to be looked at; what follows it belongs to nobody."""
    packed = pack(LINES)
    for garbage in (b"garbage behind the end", b"\n", b"\0" * 512):
        with pytest.raises(DataError, match="damaged, or has something else behind|cut off"):
            unpack(packed + garbage)
    if pack is gzip.compress:
        flipped = bytearray(packed)
        flipped[-6] ^= 1
        with pytest.raises(DataError, match="damaged"):
            unpack(bytes(flipped))


def test_a_name_of_an_archive_on_a_file_that_is_none():
    """Half of these are downloads that the browser has unpacked."""
    with pytest.raises(DataError, match=r"is not packed.*take \.gz from its name"):
        unpack(b"plain", "a.jsonl.gz")


@pytest.mark.parametrize("outer", [gzip.compress, zstandard.compress])
@PACK
def test_an_archive_in_an_archive_is_refused(outer: Pack, pack: Pack):
    """It is how bombs are hidden; and packing twice is a mistake."""
    with pytest.raises(DataError, match="packed twice"):
        unpack(outer(pack(LINES)))


@PACK
def test_a_bomb_is_stopped_early(pack: Pack, monkeypatch: pytest.MonkeyPatch):
    """A few kilobytes must not fill a disk. What packs well but is small, or is large but packs as text, is none."""
    bomb = pack(b"\0" * 8_000_000)
    assert len(unpack(bomb)) == 8_000_000
    monkeypatch.setattr(unpacking, "BOMB_BYTES", 2_000_000)
    file, size = Unpacked(io.BytesIO(bomb), "a.gz"), 0
    with pytest.raises(DataError, match="an archive bomb; if the data is right, unpack it yourself"):
        while data := file.read(100_000):
            size += len(data)
    assert size <= 2_000_000
    text = b"".join(b'{"text": "%d"}\n' % number for number in range(200_000))
    assert unpack(pack(text)) == text


@PACK
def test_peeking_takes_nothing_away(pack: Pack):
    """The first bytes are looked at before a file is read."""
    file = Unpacked(io.BytesIO(pack(LINES)), "a")
    assert file.peek(50) == LINES[:50] and file.peek(10) == LINES[:10]
    assert b"".join(iter(lambda: file.read(7_777), b"")) == LINES
    assert file.bytes_read == len(pack(LINES))
