"""Notes that can tell that they were changed: a small JSON file with the digest of everything else in it.

What a damaged disk or an editor did to one is found when it is read. Not here: payload, which a manifest proves.
"""

from typing import Self

from minimind.config import Config
from minimind.fingerprint import digest


class Proven(Config):
    """A note with its own digest. One without, from before there were any, is believed."""

    own_digest: str = ""
    """Of all other fields."""

    def with_digest(self) -> Self:
        """The same, ready to be written."""
        return self.replace(own_digest=self._digest())

    def was_changed(self) -> bool:
        """Whether it is not what `with_digest` gave."""
        return bool(self.own_digest) and self.own_digest != self._digest()

    def _digest(self) -> str:
        return digest(self.model_dump(mode="json", exclude={"own_digest"}))
