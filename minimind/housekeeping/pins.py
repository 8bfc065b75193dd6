"""Pins: what stays in the store whatever the registry says.

<home>/pins/<fingerprint>.json   the label of what is pinned, and since when
"""

import logging
from pathlib import Path

from minimind import runtime
from minimind.artifact import Artifact, Store
from minimind.errors import ArtifactError, MissingError
from minimind.proven import Proven

logger = logging.getLogger(__name__)

PINS_DIR = "pins"


class Pin(Proven):
    """One note."""

    label: str
    pinned_at: str


def pin(artifact: Artifact, store: Store) -> Path:
    """Keep an artifact, and what it was made of, whatever the registry says."""
    path = pin_path(store, artifact.fingerprint)
    path.parent.mkdir(parents=True, exist_ok=True)
    Pin(label=artifact.label, pinned_at=runtime.now()).write(path)
    return path


def unpin(artifact: Artifact, store: Store) -> None:
    """Take a pin away. Raises MissingError where there is none."""
    try:
        pin_path(store, artifact.fingerprint).unlink()
    except FileNotFoundError:
        pinned = ", ".join(f"{label} {fingerprint}" for fingerprint, label in pins(store).items()) or "nothing"
        raise MissingError(f"{artifact.label} {artifact.fingerprint} is not pinned; pinned: {pinned}") from None


def pins(store: Store) -> dict[str, str]:
    """Fingerprint → label of what is pinned. A pin whose note is damaged is one all the same, and is warned of."""
    found = {}
    for path in sorted((store.root.parent / PINS_DIR).glob("[!.]*.json")):
        try:
            found[path.stem] = Pin.read_json(path, remedy="it keeps what it names; `minimind fsck --repair`").label
        except ArtifactError as error:
            logger.warning("%s", error)
            found[path.stem] = "?"
    return found


def pin_path(store: Store, fingerprint: str) -> Path:
    """Where the pin of an artifact is, or would be."""
    return store.root.parent / PINS_DIR / f"{fingerprint}.json"
