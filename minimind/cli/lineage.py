"""`minimind lineage` and `diff`: where a model comes from, and what makes two of them differ. Parses, calls, prints."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer
from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

from minimind.cli.inspect import find
from minimind.cli.shared import AsJson, console, local

if TYPE_CHECKING:
    from minimind.lineage import Comparison, Lineage, Node

ArtifactArgument = Annotated[
    str, typer.Argument(help="chat, dpo, sft, tokens-chat, …: the newest in the store; a models:/ URI; a directory.")
]
FACTS = ("rows", "rows_kept", "train_documents", "train_tokens", "vocab_size", "parameters", "steps", "bits_per_byte")
"""Figures that stand in the tree, as far as a stage has them."""


def lineage(
    artifact: ArtifactArgument = "chat",
    picture: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--picture", help="Also draw it to this file, as SVG."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print what a model was made of, down to the sources and their digests, and the runs that made it.

    Examples: `minimind lineage`, `minimind lineage sft --picture sft.svg`, `minimind lineage models:/minimind-dpo/2`
    """
    from minimind.lineage import lineage_of
    from minimind.lineage_picture import draw_lineage
    from minimind.runtime import write_atomic

    found = lineage_of(find(artifact))
    if picture:
        write_atomic(picture, draw_lineage(found))
    registered = local().registered(found)
    if as_json:
        console.print_json(data={**found.model_dump(mode="json"), "registered": registered})
        return
    _print_lineage(found, registered)
    if picture:
        console.print(f"\n{picture}", highlight=False, soft_wrap=True)


def diff(
    before: Annotated[str, typer.Argument(help="An artifact, as for `lineage`.")],
    after: Annotated[str, typer.Argument(help="Another one.")],
    as_json: AsJson = False,
) -> None:
    """Say what differs between two models: settings, data, code, libraries and figures, stage by stage.

    Examples: `minimind diff sft dpo`, `minimind diff models:/minimind-sft/1 models:/minimind-sft/2 --json`
    """
    from minimind.lineage import compare

    found = compare(find(before), find(after))
    console.print_json(found.model_dump_json()) if as_json else _print_comparison(found)


def _print_lineage(lineage: "Lineage", registered: dict[str, str]) -> None:
    console.print(_tree(lineage, lineage.root, registered, set()))
    console.print("\n[bold]runs[/bold]")
    for node in lineage.nodes:
        if node.path:
            made = f"{node.created_at or '':.19}  {node.seconds:8.1f} s"
            console.print(f"{node.label:18} {made}  {escape(_run_link(node))}", highlight=False, soft_wrap=True)
    root = lineage.root
    facts = {
        "recipe": root.context.get("recipe"),
        "data": root.context.get("data"),
        "code": root.code_commit,
        "made on": f"{root.host.get('name')}, {root.host.get('system')}" if root.host else None,
        "libraries": ", ".join(f"{name} {version}" for name, version in root.libraries.items()),
        "Prefect": root.context.get("prefect_run"),
    }
    console.print()
    for name, value in facts.items():
        if value:
            console.print(f"{name:10} {escape(value)}", highlight=False, soft_wrap=True)
    for node in lineage.missing():
        console.print(f"[yellow]{node.label} {node.fingerprint} is not in the store any more[/yellow]")


def _tree(lineage: "Lineage", node: "Node", registered: dict[str, str], shown: set[str], name: str = "") -> Tree:
    """A node and what it was made of; what stood above already is only named."""
    role = f"{name}: " if name and name != node.label.partition("-")[0] else ""
    words = [f"{role}[bold]{node.label}[/bold] {node.fingerprint}", escape(registered.get(node.fingerprint, ""))]
    if node.path is None:
        words.append("[yellow]not in the store any more[/yellow]")
    if node.fingerprint in shown:
        return Tree("  ".join([*filter(None, words), "[dim](above)[/dim]"]))
    shown.add(node.fingerprint)
    words += [f"{fact} {_short(node.figures[fact])}" for fact in FACTS if node.figures.get(fact) is not None]
    tree = Tree("  ".join(filter(None, words)), highlight=False)
    for source, digest in node.sources.items() if node.kind != "publish" else ():  # the card's templates
        tree.add(f"source {escape(source)}  [dim]{digest[:16]}[/dim]")
    inputs, others = _telling_inputs(node)
    for input_name, fingerprint in inputs.items():
        tree.add(_tree(lineage, lineage.node(fingerprint), registered, shown, input_name))
    if others:
        tree.add(f"[dim]and, for the figures of the report: {', '.join(others)}[/dim]")
    return tree


def _telling_inputs(node: "Node") -> tuple[dict[str, str], list[str]]:
    """What an artifact was made of, and what a published one read only to tell of it."""
    chosen = node.figures.get("model")
    if node.kind != "publish" or not isinstance(chosen, str) or chosen not in node.inputs:
        return node.inputs, []
    return {chosen: node.inputs[chosen]}, [name for name in node.inputs if name != chosen]


def _run_link(node: "Node") -> str:
    server, run = node.context.get("mlflow_url"), node.context.get("mlflow_run_id")
    return f"{server}/#/runs/{run}" if server and run else run or ""


def _print_comparison(found: "Comparison") -> None:
    console.print(f"{found.before}  →  {found.after}", highlight=False)
    if found.same:
        console.print("the same artifact")
        return
    print_origins(found)
    table = Table("figure", "before", "after", "change", title="figures", title_justify="left")
    for name, (old, new) in found.figures.items():
        table.add_row(name, _short(old), _short(new), _change(old, new))
    console.print("\n", table)


def print_origins(found: "Comparison") -> None:
    """What differs in how two artifacts were made: settings, data, code and libraries, stage by stage."""
    for difference in found.differences:
        console.print(f"\n[bold]{difference.label}[/bold]")
        for line in difference.lines:
            console.print(f"  {escape(line)}", highlight=False, soft_wrap=True)
    if not found.differences:
        console.print("\nmade of the same data by the same settings and code")
    if found.libraries:
        console.print("\n[bold]libraries[/bold]")
        for name, (old, new) in found.libraries.items():
            console.print(f"  {name}: {old} → {new}", highlight=False)


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    return f"{value:,}" if isinstance(value, int) else "–" if value is None else str(value)


def _change(old: Any, new: Any) -> str:
    numbers = isinstance(old, int | float) and isinstance(new, int | float)
    if numbers and old and old != new:
        return f"{new / old - 1:+.1%}"
    return "" if numbers or old == new else "other"
