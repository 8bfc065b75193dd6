"""Notes that can tell that they were changed: a small JSON file with the digest of all its other bytes in it.

What a damaged disk or an editor did to one is found when it is read. The digest is of the file's bytes and not of what
they mean, so a version that adds a field believes the notes of the one before. Not here: payload, which a manifest
proves.
"""

import hashlib
import logging
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from minimind import runtime
from minimind.config import Config
from minimind.errors import ArtifactError, MissingError
from minimind.fingerprint import LENGTH

logger = logging.getLogger(__name__)

DAMAGED = ".damaged"
_FIELD = "own_digest"


class Proven(Config):
    """A note with its own digest. One without, from before there were any, is believed.

    A bit that flips cannot make the one of the other: a key that is not known is refused, and so is a field that was
    there and is not what it was.
    """

    own_digest: str = ""
    """Of the file's bytes, with nothing between these quotes. In the file only: what was read has none."""

    def write(self, path: Path) -> Self:
        """Write it to `path`, atomically; gives what is read from there."""
        write_note(path, self.model_dump(mode="json"))
        return self.model_copy(update={_FIELD: ""})

    @classmethod
    def from_json(cls, raw: bytes, *, origin: Path, remedy: str) -> Self:
        note = super().from_json(raw, origin=origin, remedy=remedy)
        if note.own_digest and note.own_digest != _digest(raw, note.own_digest):
            raise ArtifactError(f"{origin}: was changed since it was written; {remedy}")
        return note.model_copy(update={_FIELD: ""})

    @classmethod
    def read_or_set_aside(cls, path: Path, *, instead: str) -> Self | None:
        """What `path` says; None where there is no such note, or it is damaged.

        A damaged one is set aside, and a warning says so, and what happens `instead`.
        """
        try:
            return cls.read_json(path, remedy=instead)
        except MissingError:
            return None
        except ArtifactError as error:
            aside = set_aside(path)
            logger.warning("%s%s", error, f"; it is kept as {aside.name}" if aside else "")
            return None


def write_note(path: Path, values: Mapping[str, Any]) -> None:
    """Write `values` as a note that proves itself, atomically."""
    text = runtime.json_text({**values, _FIELD: ""})
    runtime.write_atomic(path, text.replace(_field(""), _field(_digest(text.encode(), "")), 1))


def set_aside(path: Path) -> Path | None:
    """Give a damaged note a name under which nobody looks for one; None where that cannot be, as on a full disk."""
    aside = path.with_name(path.name + DAMAGED)
    if aside.exists():
        aside = path.with_name(f"{path.name}.{secrets.token_hex(2)}{DAMAGED}")
    try:
        return path.rename(aside)
    except OSError:  # another process was faster, or nothing may be written here: the next reader is told again
        return None


def _digest(raw: bytes, own: str) -> str:
    bare = raw.replace(_field(own).encode(), _field("").encode(), 1)
    return hashlib.sha256(bare).hexdigest()[:LENGTH]


def _field(own: str) -> str:
    return f'"{_FIELD}": "{own}"'
