"""Errors a user can act on, as a tree.

    MiniMindError
    ├── ConfigError    (ValueError)         a recipe, data spec or option says something impossible
    ├── DataError      (ValueError)         input rows or files cannot be used
    ├── MissingError   (FileNotFoundError)  a file, artifact, model or program is not there
    ├── ArtifactError  (OSError)            an artifact is damaged or of another format
    ├── ServiceError   (ConnectionError)    a server that was needed does not answer
    ├── StageError     (RuntimeError)       a stage failed while it ran; carries the last log lines
    │   └── LostProcessError                a process of it was lost to a signal: another try may do better
    └── GateError      (RuntimeError)       a model was made and measured, and is not let past the gate

Each is also the standard error it refines, so `except ValueError` keeps working. The command
line prints the message on one line without a traceback; `exit_code` says how it ends.
"""

import errno
import os


class MiniMindError(Exception):
    """What was given, what is allowed and what to do, in one message."""

    exit_code = 2

    def __str__(self) -> str:  # OSError would print a tuple
        return str(self.args[0]) if self.args else type(self).__name__


class ConfigError(MiniMindError, ValueError):
    """A recipe, data spec or option says something impossible."""


class DataError(MiniMindError, ValueError):
    """Input rows or files cannot be used."""


class MissingError(MiniMindError, FileNotFoundError):
    """A file, artifact, model or program is not there."""


class ArtifactError(MiniMindError, OSError):
    """An artifact is damaged or was written in another format."""


class ServiceError(MiniMindError, ConnectionError):
    """A server that was needed does not answer."""


class StageError(MiniMindError, RuntimeError):
    """A stage failed while it ran."""

    exit_code = 1


class LostProcessError(StageError):
    """A process of a stage was lost to a signal that nobody here sent."""


_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}
_REMEDIES = {
    errno.EACCES: "give this user the right to use it",
    errno.EPERM: "give this user the right to use it",
    errno.EROFS: "have that disk mounted for writing, or set MINIMIND_HOME to another place",
    errno.EIO: "look at the disk",
}


def disk_error(error: OSError, what: str, where: object) -> StageError | None:
    """What a disk did to `what`, in words; None for an error of another kind. `where` is named if the error names none.

    No space, no right to write, a disk that is read-only or fails.
    """
    path = error.filename2 or error.filename or where
    if error.errno in _NO_ROOM:
        return StageError(f"{what}: no space is left in {path}; make room, and run it again")
    if remedy := _REMEDIES.get(error.errno or 0):
        return StageError(f"{what}: {path}: {os.strerror(error.errno or 0)}; {remedy}, and run it again")
    return None


class GateError(MiniMindError, RuntimeError):
    """A model was made and measured, and is not let past the gate: `@champion` stays where it was."""

    exit_code = 3
