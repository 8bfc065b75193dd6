"""`minimind report` and `report diff`: a card with the gate's verdict, and two side by side. Parses, calls, prints."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer
from rich.markup import escape
from rich.table import Table
from typer.core import TyperGroup

from minimind.cli.inspect import find
from minimind.cli.lineage import print_origins
from minimind.cli.shared import AsJson, console, local
from minimind.errors import ConfigError

if TYPE_CHECKING:
    from minimind.artifact import Artifact
    from minimind.evaluate.card.difference import Pair, Row
    from minimind.evaluate.gate import Verdict

DEFAULT = "show"
_CardHelp = "chat, a models:/ URI, or a directory; by default the newest."
_SideHelp = "A card (chat, models:/minimind-chat/1), a model (sft, dpo, …) or a folder, also of `minimind eval --out`."
_COLOURS = {"better": "green", "worse": "red"}


class ReportGroup(TyperGroup):
    """`report` alone, or with a card, is `report show`: people want to see it without another word."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        known = (*self.commands, *ctx.help_option_names)
        return super().parse_args(ctx, args if args and args[0] in known else [DEFAULT, *args])


app = typer.Typer(
    cls=ReportGroup,
    rich_markup_mode="markdown",
    help="Print the newest report card; with `diff` two of them side by side. `minimind report` is `report show`.",
)


@app.command()
def show(
    card: Annotated[Optional[str], typer.Argument(help=_CardHelp)] = None,  # noqa: UP045
    as_json: AsJson = False,
    open_page: Annotated[bool, typer.Option("--open", help="Open its page in the browser.")] = False,
) -> None:
    """Print a report card and what the gate said of the model.

    Examples: `minimind report`, `minimind report --open`, `minimind report show models:/minimind-chat/2 --json`
    """
    found = find(card, ("publish",)) if card else local().newest_report()
    verdict = local().verdict_of(found)
    page = found.dir / "report.html"
    if as_json:
        facts = json.loads((found.dir / "report.json").read_text(encoding="utf-8"))
        console.print_json(data={**facts, "gate": verdict and verdict_facts(verdict)})
    else:
        from rich.markdown import Markdown

        console.print(Markdown((found.dir / "report.md").read_text(encoding="utf-8")))
        print_verdict(verdict) if verdict else console.print("\nThe gate has not judged this model.")
        console.print(f"\n{page}", highlight=False, soft_wrap=True)
    if open_page:
        typer.launch(str(page))


@app.command()
def diff(
    before: Annotated[str, typer.Argument(help=_SideHelp)],
    after: Annotated[str, typer.Argument(help="Another one.")],
    as_json: AsJson = False,
    html: Annotated[Optional[Path], typer.Option(help="Write a page with the answers instead of printing.")] = None,  # noqa: UP045
) -> None:
    """Every figure of two cards or models side by side: the difference on the same items, and whether it is sure.

    Examples: `minimind report diff models:/minimind-chat/1 models:/minimind-chat/2`,
    `minimind report diff sft dpo --html diff.html`
    """
    from minimind.evaluate.card.difference import difference, render_html
    from minimind.runtime import write_atomic

    if html is not None and not html.expanduser().resolve().parent.is_dir():
        raise ConfigError(f"--html {html}: there is no directory {html.parent}")
    found = difference(_side(before), _side(after))
    if html is not None:
        write_atomic(html.expanduser(), render_html(found).encode("utf-8", "replace"))
        console.print(str(html), highlight=False, soft_wrap=True)
    elif as_json:
        console.print_json(found.model_dump_json())
    else:
        console.print(f"{found.before}  →  {found.after}", highlight=False)
        for pair in found.pairs:
            _print_pair(pair)
        if found.made:
            print_origins(found.made)


def _side(name: str) -> "Artifact | Path":
    """A folder of figures as it is; anything else is an artifact."""
    from minimind.artifact import MANIFEST_FILE
    from minimind.evaluate.results import EVALUATION_FILE

    folder = Path(name).expanduser()
    return folder if (folder / EVALUATION_FILE).is_file() and not (folder / MANIFEST_FILE).exists() else find(name)


def print_verdict(verdict: "Verdict") -> None:
    """The rulings of the gate as a table."""
    colour = {"passed": "green", "refused": "red", "forced": "yellow"}[verdict.state]
    champion = f"; champion {verdict.champion.uri}" if verdict.champion else ""
    title = f"the gate: [{colour}]{verdict.state}[/{colour}]{champion}"
    words = {True: "[green]passed[/green]", False: "[red]refused[/red]", None: "[dim]not judged[/dim]"}
    table = Table("rule", "", "", title=title, title_justify="left", title_style="")
    for ruling in verdict.rulings:
        table.add_row(ruling.rule, words[ruling.passed], escape(ruling.detail))
    console.print("\n", table)
    if verdict.forced:
        forced = verdict.forced
        words_why = forced.reason or "no reason was given"
        console.print(f"forced by {escape(forced.by)}, {forced.at}: {escape(words_why)}", highlight=False)


def verdict_facts(verdict: "Verdict") -> dict[str, Any]:
    """A verdict for programs."""
    return {"state": verdict.state, "reason": verdict.reason, **verdict.model_dump(mode="json")}


def _print_pair(pair: "Pair") -> None:
    from minimind.evaluate.card.difference import change_of, value_of

    def cells(row: "Row") -> tuple[str, str, str]:
        before, after = (value_of(figure, row.metric) for figure in (row.before, row.after))
        return before, after, change_of(row.difference, row.metric)

    same = ", the same model" if pair.same else ""
    title = f"[bold]{pair.title}[/bold]  {pair.before.fingerprint} → {pair.after.fingerprint}{same}"
    table = Table("task", "figure", title=title, title_justify="left", title_style="")
    for name in ("before", "after", "difference (95 %)", "items"):
        table.add_column(name, justify="right")
    table.add_column("after is")
    for row in pair.rows:
        colour = _COLOURS.get(row.word, "dim")
        items = f"{row.difference.n:,}" if row.difference else ""
        table.add_row(escape(row.task), row.how.title, *cells(row), items, f"[{colour}]{row.word}[/{colour}]")
    console.print("\n", table)
