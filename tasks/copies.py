"""The registry as `minimind fsck --repair` sees it: copies of the bytes of artifacts, and of what the store noted."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from minimind.artifact import REGISTRY_DIR, Store
from minimind.errors import ArtifactError, MiniMindError, MissingError, ServiceError
from tasks.registry import WHOLE, Registration
from tasks.runs import TRACKING_VARIABLE
from tasks.tracking import Tracker


class Copies:
    """What MLflow has of a store's artifacts. Where there is no registry at all it has nothing.

    Raises ServiceError where there is one that does not answer.
    """

    def __init__(self, store: Store) -> None:
        self._store, self._home = store, store.root.parent
        self.tracker: Tracker | None = None
        self.trouble = ""
        """Why the registry could not be asked."""
        if not (os.environ.get(TRACKING_VARIABLE) or (self._home / "mlflow.db").exists()):
            return
        try:
            self.tracker = Tracker(self._home)
        except ServiceError as error:
            self.trouble = str(error)

    def fetch_file(self, kind: str, fingerprint: str, path: str, target: Path) -> bool:
        """Write a file of an artifact to `target`, if there is one."""
        found = self.registration(kind, fingerprint)
        return bool(found and self.tracker and self.tracker.fetch_file(found, path, target))

    def fetch_artifact(self, kind: str, fingerprint: str) -> bool:
        """Put a whole artifact into its place, proven, if the registry has it."""
        found = self.registration(kind, fingerprint)
        if self.tracker is None or found is None or found.uri is None or kind not in WHOLE:
            return False
        with self._answering():
            try:
                return self.tracker.resolve(found.uri, self._store).fingerprint == fingerprint
            except ServiceError:
                raise
            except MiniMindError:  # what it has is damaged too
                return False

    def registration(self, kind: str, fingerprint: str) -> Registration | None:
        """Where an artifact was recorded, as it is noted or as the server says."""
        with suppress(ArtifactError, MissingError):  # a damaged note is mended by who found it
            here = Registration.read_json(self._home / REGISTRY_DIR / f"{kind}-{fingerprint}.json", remedy="")
            if self.tracker and here.tracking_uri == self.tracker.uri and self.tracker.knows(here):
                return here
        return self.look_up(kind, fingerprint)

    def look_up(self, kind: str, fingerprint: str) -> Registration | None:
        """Where an artifact was recorded, as the server says."""
        if self.trouble:
            raise ServiceError(self.trouble)
        if self.tracker is None:
            return None
        with self._answering():
            return self.tracker.look_up(kind, fingerprint)

    @contextmanager
    def _answering(self) -> Iterator[None]:
        assert self.tracker is not None
        try:
            yield
        except MiniMindError:
            raise
        except self.tracker.failures as error:
            raise ServiceError(f"MLflow at {self.tracker.uri} does not answer: {error}") from None
