"""`minimind forget`: who saw some rows, and what to do without them. Parses, calls, prints."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from minimind.cli.inspect import registered_uris
from minimind.cli.shared import AsJson, console
from minimind.errors import ConfigError

if TYPE_CHECKING:
    from minimind.forget.reach import Reached
    from minimind.forget.report import Forgetting

_ROWS_SHOWN = 20
_HEADINGS = {
    "holds": "have the rows",
    "learnt": "learnt from them",
    "made_of": "made of a model that did",
    "measured": "were only measured on them",
    "derived": "made of what has them, but learnt nothing from them",
}


def forget(
    source: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--source", help="A source's name, or a file it was read from; a pattern; may be given often."),
    ] = None,
    rows: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--rows", help="JSON Lines: rows as they are, ids, or places (source, file, line)."),
    ] = None,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--out", help="With --rows: write their ids here, a list for the data spec without their texts."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List every artifact and model that saw some rows, and the least that must run again without them.

    Changes nothing: it says what to write in the data spec, and which commands make new models and remove the old ones.

    Examples: `minimind forget --source web`, `minimind forget --rows leaked.jsonl --out forget.jsonl`
    """
    from minimind.artifact import Store
    from minimind.forget.report import forget_rows, forget_sources
    from minimind.forget.rows import write_rows
    from minimind.train.history import trainings

    if (rows is None) == (not source):
        raise ConfigError("give either --source NAME or --rows FILE")
    store = Store()
    if rows is not None:
        if out is not None and not out.expanduser().resolve().parent.is_dir():
            raise ConfigError(f"--out {out}: there is no directory {out.parent}")
        found = forget_rows(rows.expanduser(), store, trainings(store), out=out)
        if out is not None:
            write_rows(found.rows, out)
    else:
        if out is not None:
            raise ConfigError("--out is for --rows: a source is taken out of the data spec itself")
        found = forget_sources(source or [], store, trainings(store))
    registered = registered_uris([one.fingerprint for one in found.reached])
    if as_json:
        console.print_json(data={**found.model_dump(mode="json"), "registered": registered})
        return
    _print(found, registered, console)


def _print(found: "Forgetting", registered: dict[str, str], console: Console) -> None:
    named = [row for row in found.rows if not row.is_copy]
    for row in [*named, *(row for row in found.rows if row.is_copy)][:_ROWS_SHOWN]:
        what = "a copy: cleaning took it for the same" if row.is_copy else "named"
        place = (f"{row.source}:{row.line}", "cyan")
        _line(console, f"{row.rows} ", place, f"  {row.id or 'a row that could not be used'}  ", (what, "bright_black"))
    if len(found.rows) > _ROWS_SHOWN:
        _line(console, f"… and {len(found.rows) - _ROWS_SHOWN:,} more (--json has all)")
    if found.unknown:
        lines = ", ".join(map(str, found.unknown[:_ROWS_SHOWN])) + (" …" if len(found.unknown) > _ROWS_SHOWN else "")
        console.print(f"[yellow]in no artifact[/yellow]  line {lines} of the list", highlight=False, soft_wrap=True)
    for name in found.sources:
        _line(console, "source ", (name, "cyan"))
    for how, heading in _HEADINGS.items():
        if reached := [one for one in found.reached if one.how == how]:
            console.print(f"\n[bold]{heading}[/bold]")
            for one in reached:
                _line(console, f"  {one.label:18} {one.fingerprint}  {registered.get(one.fingerprint, '')}", _told(one))
    if not any(one.how == "learnt" for one in found.reached):
        _line(console, "\nno model learnt from them")
    for line in found.untold:
        console.print(f"[yellow]cannot be told[/yellow]  {escape(line)}", highlight=False, soft_wrap=True)
    _print_rerun(found, console)


def _told(one: "Reached") -> str:
    """What was found in an artifact, in words."""
    unit = "documents" if one.kind == "tokens" else "rows"
    where = {"train": f"{unit} for training", "val": f"{unit} for validation", "dropped": "in its log of dropped rows"}
    counts = [f"{count:,} {where.get(name, unit)}" for name, count in one.rows.items() if count]
    if one.steps:
        more = f" and {one.steps - len(one.first_steps):,} more" if one.steps > len(one.first_steps) else ""
        counts.append(f"step {', '.join(map(str, one.first_steps))}{more}")
    return "  " + "; ".join([*counts, *filter(None, [one.note])])


def _print_rerun(found: "Forgetting", console: Console) -> None:
    rerun = found.rerun
    if not rerun.again:
        _line(
            console,
            "\nthe newest pipeline does not have them: nothing needs to run again; `minimind gc` removes the old",
        )
    else:
        console.print("\n[bold]to be rid of them[/bold]")
        for number, edit in enumerate(rerun.edits, 1):
            _line(console, f"  {number}. {edit}")
        for number, command in enumerate(rerun.commands, 1 + len(rerun.edits)):
            _line(console, f"  {number}. {command}")
        stages = ", ".join(f"{stage.label} {stage.seconds:.0f} s" for stage in rerun.again)
        _line(console, f"\nruns again, for about {rerun.seconds:,.0f} s by the last time: {stages}")
        _line(console, f"is reused: {', '.join(rerun.stays) or 'nothing'}")
        if rerun.gone:
            _line(console, f"cannot be made without it: {', '.join(rerun.gone)}")
    for note in found.notes:
        _line(console, (f"· {note}", "bright_black"))


def _line(console: Console, *parts: str | tuple[str, str]) -> None:
    console.print(Text.assemble(*parts), soft_wrap=True)
