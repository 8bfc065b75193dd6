"""The command line. Parses, calls, prints; no logic lives here.

Everything heavy is imported inside the commands, so that `--help` comes at once.
"""

from minimind.cli.app import app, main

__all__ = ["app", "main"]
