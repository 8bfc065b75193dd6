"""The commands that run, list and repair, and the one place where errors become exit codes.

A user's mistake is one line on stderr and exit code 2; a stage that failed is exit code 1; a model that the gate
refuses is 3; Ctrl-C is 130 and leaves a state that can be resumed.
"""

import logging
import os
import sys
from importlib import metadata
from types import ModuleType
from typing import Annotated, Any, Optional

import typer
from rich.console import Console

from minimind import runtime
from minimind.cli import (
    data,
    estimate,
    evaluate,
    export,
    forget,
    housekeeping,
    inspect,
    lineage,
    models,
    node,
    report,
    serve,
    sweep,
    tokenizer,
    ui,
    verify,
)
from minimind.cli.shared import INTERRUPTED, AsJson, console, local
from minimind.errors import ConfigError, MiniMindError, disk_error

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help="Raw text to a chat model of your own. Start with `minimind run`, then `minimind chat dpo`.",
)
data.app.command()(inspect.show)
app.add_typer(data.app, name="data")
app.add_typer(tokenizer.app, name="tokenizer")
app.add_typer(verify.app, name="verify")
app.add_typer(report.app, name="report")

OF_DATA = (
    "; only the pipeline, ingest, clean and shard read a data spec: `minimind run shard --data …` makes its corpus the "
    "newest, which the others take"
)

RecipeOption = Annotated[str, typer.Option("--recipe", "-r", help="A recipe's name, or the path of a TOML file.")]
DataOption = Annotated[Optional[str], typer.Option("--data", "-d", help="A data spec's name or path.")]  # noqa: UP045
Overrides = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option("-o", "--override", help="A setting to change, as section.key=value; may be given often."),
]
Parameters = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option("-p", "--param", help="A parameter of the stage's flow, as name=value; may be given often."),
]

DownstreamOption = Annotated[
    bool, typer.Option("--downstream", help="With one stage: then also every later stage that reads what it made.")
]


def main() -> None:
    """Entry point: every expected error becomes one line and an exit code."""
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    handler = logging.getLogger().handlers[0]
    handler.setLevel(logging.WARNING)  # Prefect's loggers have levels of their own
    handler.addFilter(lambda record: not record.name.startswith("prefect"))  # said by the progress display
    try:
        app()
    except (MiniMindError, OSError) as error:
        known = error if isinstance(error, MiniMindError) else disk_error(error, "minimind", runtime.home())
        if known is None or os.environ.get("MINIMIND_TRACEBACK"):
            raise
        Console(stderr=True).print(f"[red]error:[/red] {_plain(known)}", highlight=False, soft_wrap=True)
        sys.exit(known.exit_code)


@app.callback()
def version(
    show: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    """MiniMind."""
    if show:
        console.print(f"minimind {metadata.version('minimind-pipeline')}", highlight=False)
        raise typer.Exit


@app.command()
def run(
    stage: Annotated[str, typer.Argument(help="A stage, or full-pipeline.")] = "full-pipeline",
    recipe: RecipeOption = "quickstart",
    data: DataOption = None,
    override: Overrides = None,
    parameter: Parameters = None,
    downstream: DownstreamOption = False,
    refresh: Annotated[bool, typer.Option("--refresh", help="Run again even what is there.")] = False,
    runner: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Where the data stages' pieces run: dask, or dask:tcp://host:port; by default here."),
    ] = None,
) -> None:
    """Run the whole pipeline, or one stage; what is there and unchanged is reused.

    Examples: `minimind run`, `minimind run sft -o sft.lr=3e-4`, `minimind run -d my_data.toml`,
    `minimind run clean -p kind=chat`, `minimind run sft -p init=models:/minimind-pretrain/2`,
    `minimind run sft -o sft.lr=3e-4 --downstream`
    """
    if runner is not None:
        os.environ["MINIMIND_TASK_RUNNER"] = runner
    flows = local()
    given = _given(parameter, recipe=recipe, data=data, overrides=override, downstream=downstream, refresh=refresh)
    try:
        uri = flows.run(stage, _accepted(stage, given), console=console)
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on from where it was", highlight=False)
        raise typer.Exit(INTERRUPTED) from None
    _say_how_to_go_on(flows, uri, published=downstream or stage in ("full-pipeline", "publish"))


@app.command()
def plan(
    stage: Annotated[str, typer.Argument(help="A stage, or full-pipeline.")] = "full-pipeline",
    recipe: RecipeOption = "quickstart",
    data: DataOption = None,
    override: Overrides = None,
    parameter: Parameters = None,
    downstream: DownstreamOption = False,
    refresh: Annotated[bool, typer.Option("--refresh", help="As if every stage were to run again.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say of every stage whether it would be reused or run, why, what it would read, and for how long. Starts nothing.

    Examples: `minimind plan -o sft.lr=3e-4`, `minimind plan sft -p init=models:/minimind-pretrain/1`
    """
    given = _given(parameter, recipe=recipe, data=data, overrides=override, downstream=downstream, refresh=refresh)
    local("local_plan").plan(stage, _accepted(stage, given), console=console, as_json=as_json)


@app.command()
def up(
    prefect_port: Annotated[int, typer.Option(help="Port of the Prefect server and its page.")] = 4200,
    mlflow_port: Annotated[int, typer.Option(help="Port of the MLflow page.")] = 5000,
) -> None:
    """Start the Prefect server, the MLflow page and all deployments; Ctrl-C stops them.

    Then, in another shell: `prefect deployment run full-pipeline/local --watch`
    """
    local().serve.up(console, prefect_port=prefect_port, mlflow_port=mlflow_port)


app.command()(estimate.estimate)
app.command()(sweep.sweep)
app.command()(models.chat)
app.command()(models.generate)
app.command("eval")(evaluate.evaluate)
app.command()(serve.serve)
app.command()(ui.ui)
app.command()(export.export)
app.command("import")(export.import_)
app.command()(inspect.lint)
app.command()(inspect.trace)
app.command()(inspect.ledger)
app.command()(lineage.lineage)
app.command()(lineage.diff)
app.command()(forget.forget)
app.command()(node.node)
app.command()(housekeeping.fsck)
app.command()(housekeeping.gc)
app.command()(housekeeping.pin)
app.command()(housekeeping.unpin)
app.command()(housekeeping.promote)
app.command()(housekeeping.sync)


@app.command()
def runs(count: Annotated[int, typer.Option("--count", "-n", help="How many.")] = 20, as_json: AsJson = False) -> None:
    """List the newest runs. Example: `minimind runs -n 5`"""
    local().runs(console, count=count, as_json=as_json)


def _given(parameters: list[str] | None, **options: Any) -> dict[str, Any]:
    """The options, and `name=value` parameters over them."""
    for parameter in parameters or ():
        if "=" not in parameter:
            raise ConfigError(f"-p {parameter}: write it as name=value, for example -p kind=chat")
    pairs = (parameter.partition("=") for parameter in parameters or ())
    return options | {name.strip(): value for name, _, value in pairs}


def _accepted(stage: str, given: dict[str, Any]) -> dict[str, Any]:
    """The options that were given, checked against what the stage's flow takes."""
    taken = local("catalog").parameters_of(stage)
    used = {name: value for name, value in given.items() if value not in (None, False)}
    if unknown := [name for name in used if name not in taken and (name, used[name]) != ("recipe", "quickstart")]:
        hint = OF_DATA if unknown[0] == "data" else ""
        raise ConfigError(f"stage {stage} takes no `{unknown[0]}`; it takes: {', '.join(sorted(taken))}{hint}")
    return {name: value for name, value in used.items() if name in taken}


def _say_how_to_go_on(flows: ModuleType, uri: str, *, published: bool) -> None:
    lines = [f"\n[bold]{uri}[/bold]"]
    if published:
        card = flows.newest_report().dir / "report.html"
        lines += [
            f"report card  {card}",
            "talk to it   minimind chat",
            "both UIs     minimind up   (Prefect http://127.0.0.1:4200, MLflow http://127.0.0.1:5000)",
        ]
    console.print("\n".join(lines), highlight=False, soft_wrap=True)


def _plain(error: MiniMindError) -> str:
    """Its words; a file's name in them may have what a terminal takes for a command."""
    shown = "".join(char if char.isprintable() or char == "\n" else repr(char)[1:-1] for char in str(error))
    return shown.replace("[", r"\[")
