"""What several commands share: the console, common options, the door to the flows."""

import importlib
import os
import sys
from types import ModuleType
from typing import Annotated

import typer
from rich.console import Console

from minimind import runtime

console = Console()

INTERRUPTED = 130
"""Exit code of a command that Ctrl-C ended: 128 + SIGINT, as shells have it."""

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def local(module: str = "local") -> ModuleType:
    """The module `flows.local`, or another one, with the environment Prefect and MLflow must find at their import."""
    if str(runtime.CHECKOUT) not in sys.path:
        sys.path.append(str(runtime.CHECKOUT))
    serve = importlib.import_module("flows.serve")
    for name, value in serve.environment(runtime.home()).items():
        os.environ[name] = value
    return importlib.import_module(f"flows.{module}")
