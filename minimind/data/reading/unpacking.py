"""Unpacking: gzip and zstd streams, in bounded memory, and everything that can be wrong with one.

A cut-off or damaged archive must not pass for a shorter file, nor an archive bomb fill the disk: `Unpacked`
says so in one line. gzip is unpacked by Intel's ISA-L where the package `isal` is there: it is zlib in all but
time, of which it takes half. Not here: opening files (`files`); other archives, which are refused (`foreign`).
"""

import io
import weakref
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

try:
    from isal import isal_zlib as zlib
except ImportError:  # there are no wheels of it for some machines
    import zlib  # type: ignore[no-redef]

from minimind.errors import DataError, MiniMindError

BOMB_BYTES, BOMB_RATIO = 256 << 20, 250
"""What comes out of an archive is taken for a bomb beyond both; JSON Lines pack to a third or a twentieth."""
PACKINGS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
"""First bytes → name."""
_SKIPPABLE = b"\x2a\x4d\x18"
"""Behind a first byte from 0x50 to 0x5f: a frame of zstd without data, with which parallel packers begin a file."""
_STORED_BYTES = 512 << 10
"""So much of a gzip stream is unpacked at once."""
_TRUNCATED = "Truncated compressed stream"
"""What pyarrow says of a stream that ends too early."""


def packing_of(start: bytes) -> str | None:
    """What a file that begins with `start` is packed with."""
    if start[1:4] == _SKIPPABLE and 0x50 <= start[0] <= 0x5F:
        return "zstd"
    return next((packing for magic, packing in PACKINGS.items() if start.startswith(magic)), None)


def refuse_bomb(name: str, *, stored: int, unpacked: int) -> None:
    """Raise DataError where so much has come out of so little that it is no data."""
    if unpacked > BOMB_BYTES and unpacked > BOMB_RATIO * stored:
        raise DataError(
            f"{name}: more than {BOMB_RATIO} times its size comes out of it, an archive bomb; "
            "if the data is right, unpack it yourself"
        )


class Unpacked(io.RawIOBase):
    """The unpacked bytes of a plain, gzip or zstd stream, told by its first bytes rather than its name.

    Several gzip members or zstd frames one after the other are one file. Raises DataError for an archive that
    is cut off, damaged, a bomb, or holds another archive.
    """

    def __init__(self, raw: BinaryIO, name: str) -> None:
        super().__init__()
        self.name = name
        self.bytes_read = 0
        """Of the stored bytes."""
        self._raw, self._waiting = raw, _read_fully(raw, max(map(len, PACKINGS)))
        self.packing = packing_of(self._waiting)
        if self._waiting and not self.packing and name.endswith((".gz", ".zst")):
            raise DataError(f"{name}: is not packed, or damaged at its start; take {Path(name).suffix} from its name")
        self._bytes_out, self._ahead = 0, b""
        self._stream: _Gzip | pa.CompressedInputStream | None = None
        if self.packing == "gzip":
            self._stream = _Gzip(self)
        elif self.packing:  # pyarrow says so when a frame is cut off and goes on with the next; others are silent
            self._stream = pa.CompressedInputStream(pa.PythonFile(_Reader(self)), self.packing)

    def readable(self) -> bool:
        return True

    def peek(self, size: int) -> bytes:
        """The first `size` bytes, or all there are; they are read again afterwards."""
        while len(self._ahead) < size and (data := self._next(size - len(self._ahead))):
            self._ahead += data
        return self._ahead[:size]

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes, none at the end only."""
        if self._ahead:
            data, self._ahead = self._ahead[:size], self._ahead[size:]
            return data
        return self._next(size)

    def stored(self, size: int) -> bytes:
        """The next bytes as they are stored."""
        data, self._waiting = self._waiting[:size], self._waiting[size:]
        data = data or self._raw.read(size)
        self.bytes_read += len(data)
        return data

    def _next(self, size: int) -> bytes:
        if self._stream is None:
            return self.stored(size)
        try:
            data = self._stream.read(size)
        except (OSError, zlib.error) as error:
            if isinstance(error, MiniMindError):  # the place it is read from has gone
                raise
            cut = "is cut off" if _TRUNCATED in str(error) else "is damaged, or has something else behind its end"
            what = f"the {self.packing} archive {cut} ({str(error)[:80] or type(error).__name__})"
            raise DataError(f"{self.name}: {what}; fetch it again") from None
        if not self._bytes_out and packing_of(data):
            raise DataError(f"{self.name}: is packed twice; unpack it once")
        self._bytes_out += len(data)
        refuse_bomb(self.name, stored=self.bytes_read, unpacked=self._bytes_out)
        return data


class _Gzip:
    """The members of a gzip stream, one after the other, as one file."""

    def __init__(self, owner: Unpacked) -> None:
        self._owner, self._member, self._packed = owner, zlib.decompressobj(wbits=31), b""

    def read(self, size: int) -> bytes:
        """The next `size` bytes, fewer at the end only."""
        parts = []
        while size and (data := self._some(size)):
            parts.append(data)
            size -= len(data)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _some(self, size: int) -> bytes:
        while True:
            if self._member.eof:
                self._packed = self._packed or self._owner.stored(_STORED_BYTES)
                if not self._packed:
                    return b""
                self._member = zlib.decompressobj(wbits=31)
            data = self._member.decompress(self._packed, size)
            self._packed = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
            if data:
                return data
            if not self._packed and not self._member.eof:
                self._packed = self._owner.stored(_STORED_BYTES)
                if not self._packed:
                    raise OSError(_TRUNCATED)


class _Reader(io.RawIOBase):
    """The stored bytes of an `Unpacked`, for pyarrow to unpack."""

    def __init__(self, owner: Unpacked) -> None:
        super().__init__()
        # Weak: what pyarrow holds no garbage collector sees, and a circle through it would keep the stream for ever.
        self._owner = weakref.proxy(owner)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._owner.stored(size)


def _read_fully(raw: BinaryIO, size: int) -> bytes:
    """The first `size` bytes, which a slow connection may give in pieces."""
    data = b""
    while len(data) < size and (more := raw.read(size - len(data))):
        data += more
    return data
