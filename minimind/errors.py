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


class GateError(MiniMindError, RuntimeError):
    """A model was made and measured, and is not let past the gate: `@champion` stays where it was."""

    exit_code = 3
