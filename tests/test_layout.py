"""The shape of the house: who may import whom, and names that shadow nothing."""

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]


def test_import_contracts_hold():
    """flows → tasks → minimind, never back; the library knows no orchestrator."""
    tool = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([str(tool), "--no-cache"], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_test_or_flow_file_shadows_an_importable_name():
    """A flow file loaded by path puts its folder first on sys.path: `flows/datasets.py` would hide the package."""
    taken = {name for names in importlib.metadata.packages_distributions().values() for name in names}
    taken |= set(importlib.metadata.packages_distributions()) | set(sys.stdlib_module_names)
    own = {path.stem for folder in ("flows", "tests") for path in (CHECKOUT / folder).glob("*.py")} - {"__init__"}
    assert not own & (taken - {"flows", "tasks", "minimind"})


@pytest.mark.parametrize("folder", ["minimind", "tasks", "flows"])
def test_no_file_is_a_drawer_for_odds_and_ends(folder: str):
    names = {path.stem for path in (CHECKOUT / folder).rglob("*.py")}
    assert not names & {"utils", "util", "common", "helpers", "helper", "manager", "misc"}


def test_importing_the_command_line_imports_nothing_heavy():
    """`minimind --help` must answer at once."""
    script = (
        "import sys, minimind.cli; print([m for m in ('torch', 'mlflow', 'prefect', 'datasets') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
