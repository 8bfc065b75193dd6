"""What a flow would do: what `minimind plan` prints. Nothing is started for it, and no server is asked."""

import json
import re
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.markup import escape

from flows.catalog import FULL, find_flow
from minimind.data.wording import duration
from minimind.fingerprint import Change
from tasks.pipeline import planning
from tasks.plan import Step

SHOWN_CHANGES = 4


def planned(parameters: dict[str, Any], name: str = FULL) -> list[Step]:
    """What a flow would do, stage by stage; nothing is run."""
    with planning() as steps:
        find_flow(name).fn(**parameters)
    return steps


def plan(name: str, parameters: dict[str, Any], *, console: Console, as_json: bool) -> None:
    """Say of every stage of a flow whether it would run, why, what it would read, and for how long. Starts nothing."""
    steps = planned(parameters, name)
    if as_json:
        console.print_json(json.dumps([_step_facts(step) for step in steps], ensure_ascii=False))
        return
    for step in steps:
        console.print(_headline(step), highlight=False)
        for line in [] if step.reused else because(step):
            console.print(f"    [dim]{escape(line)}[/dim]", highlight=False)
    waiting = [step for step in steps if not step.reused]
    known = [step.seconds for step in waiting if step.seconds is not None]
    words = f"{len(waiting)} of {len(steps)} stages would run"
    words += f", for about {duration(sum(known))}" if known else ""
    words += " and what is not known" if 0 < len(known) < len(waiting) else ""
    console.print(f"\n{words}" if waiting else "\nnothing to run", highlight=False)


def _headline(step: Step) -> str:
    if step.reused:
        return f"[green]✓ {step.label:18}[/green] reuse  {escape(step.uri)}"
    about = f"  about {duration(step.seconds)} ({step.seconds_from})" if step.seconds is not None else ""
    return f"[yellow]● {step.label:18}[/yellow] run  {about}"


def because(step: Step) -> list[str]:
    """Why a stage would run, a line for each kind of reason, and what it would read."""
    groups: dict[str, list[str]] = {}
    for change in step.changes:
        if change.part == "input" and step.reads.get(change.name, "").endswith("(new)"):
            continue  # of what is new it follows
        groups.setdefault(change.part, []).append(_short(change))
    lines = [step.problem] if step.problem else []
    for part, found in groups.items():
        more = f" and {len(found) - SHOWN_CHANGES} more" if len(found) > SHOWN_CHANGES else ""
        lines.append(f"{part:7}{', '.join(found[:SHOWN_CHANGES])}{more}")
    versions = dict.fromkeys(version.removeprefix("models:/minimind-") for version in step.reads.values())
    return [*lines, f"{'reads':7}{', '.join(versions)}"] if versions else lines


def _short(change: Change) -> str:
    """`sft.lr: 0.001 → 0.0003`; of a module its name alone, of a digest its beginning."""
    if change.part == "code":
        return change.name
    separator = " " if change.part == "input" else ": "
    return f"{change.name}{separator}{re.sub(r'[0-9a-f]{16,}', lambda digest: digest[0][:12], change.values)}"


def _step_facts(step: Step) -> dict[str, Any]:
    return {
        "stage": step.label,
        "fingerprint": step.parts.fingerprint(),
        "reuse": step.reused,
        "reasons": [str(change) for change in step.changes] or [step.problem] * bool(step.problem),
        "changes": [asdict(change) for change in step.changes],
        "version": step.uri,
        "reads": step.reads,
        "seconds": step.seconds,
        "seconds_from": step.seconds_from,
    }
