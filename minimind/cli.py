"""The command line. Parses, calls, prints; no logic lives here.

Everything heavy is imported inside the commands. Flows are reached through `_local`, the one door
from the library to the orchestration above it. A user's mistake is one line on stderr and exit
code 2; a stage that failed is exit code 1; Ctrl-C is 130 and leaves a state that can be resumed.
"""

import importlib
import json
import logging
import os
import sys
from importlib import metadata
from types import ModuleType
from typing import Annotated, Any, Optional

import typer
from rich.console import Console

from minimind import cli_data, runtime
from minimind.errors import ConfigError, MiniMindError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help="Raw text to a chat model of your own. Start with `minimind run`, then `minimind chat dpo`.",
)
app.add_typer(cli_data.app, name="data")
console = Console()

INTERRUPTED = 130
"""Exit code of a command that Ctrl-C ended: 128 + SIGINT, as shells have it."""

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
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
ModelArgument = Annotated[
    str, typer.Argument(help="chat (the published one), dpo, sft, …; a models:/ URI; or a directory.")
]

System = Annotated[Optional[str], typer.Option(help="A system prompt.")]  # noqa: UP045
Temperature = Annotated[float, typer.Option(help="0 always takes the likeliest token.")]
TopK = Annotated[int, typer.Option(help="Keep so many likeliest tokens; 0 keeps all.")]
TopP = Annotated[float, typer.Option(help="Keep the likeliest tokens that reach this probability.")]
RepetitionPenalty = Annotated[float, typer.Option(help="Above 1, used tokens become less likely.")]
MaxTokens = Annotated[int, typer.Option(help="Longest answer.")]
Stop = Annotated[Optional[list[str]], typer.Option(help="End an answer before this text.")]  # noqa: UP045
Seed = Annotated[Optional[int], typer.Option(help="Same seed, same answers.")]  # noqa: UP045
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]


def main() -> None:
    """Entry point: every expected error becomes one line and an exit code."""
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    handler = logging.getLogger().handlers[0]
    handler.setLevel(logging.WARNING)  # Prefect's loggers have levels of their own
    handler.addFilter(lambda record: not record.name.startswith("prefect"))  # said by the progress display
    try:
        app()
    except MiniMindError as error:
        if os.environ.get("MINIMIND_TRACEBACK"):
            raise
        Console(stderr=True).print(f"[red]error:[/red] {_plain(error)}", highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)


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
    refresh: Annotated[bool, typer.Option("--refresh", help="Run again even what is there.")] = False,
    runner: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Where the data stages' pieces run: dask, or dask:tcp://host:port; by default here."),
    ] = None,
) -> None:
    """Run the whole pipeline, or one stage; what is there and unchanged is reused.

    Examples: `minimind run`, `minimind run sft -o sft.lr=3e-4`, `minimind run -d my_data.toml`,
    `minimind run clean -p kind=chat`, `minimind run sft -p init=models:/minimind-pretrain/2`
    """
    if runner is not None:
        os.environ["MINIMIND_TASK_RUNNER"] = runner
    local = _local()
    given = {"recipe": recipe, "data": data, "overrides": override, "refresh": refresh, **_pairs(parameter)}
    try:
        uri = local.run(stage, _accepted(local, stage, given), console=console)
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on from where it was", highlight=False)
        raise typer.Exit(INTERRUPTED) from None
    _say_how_to_go_on(local, stage, uri)


@app.command()
def plan(
    recipe: RecipeOption = "quickstart",
    data: DataOption = None,
    override: Overrides = None,
    refresh: Annotated[bool, typer.Option("--refresh", help="As if every stage were to run again.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say of every stage whether it would be reused or run, and why. Starts nothing.

    Example: `minimind plan -o sft.lr=3e-4`
    """
    parameters = {"recipe": recipe, "data": data, "overrides": override, "refresh": refresh}
    _local().plan(parameters, console=console, as_json=as_json)


@app.command()
def up(
    prefect_port: Annotated[int, typer.Option(help="Port of the Prefect server and its page.")] = 4200,
    mlflow_port: Annotated[int, typer.Option(help="Port of the MLflow page.")] = 5000,
) -> None:
    """Start the Prefect server, the MLflow page and all deployments; Ctrl-C stops them.

    Then, in another shell: `prefect deployment run full-pipeline/local --watch`
    """
    _local().serve.up(console, prefect_port=prefect_port, mlflow_port=mlflow_port)


@app.command()
def chat(
    model: ModelArgument = "chat",
    system: System = None,
    temperature: Temperature = 0.7,
    top_k: TopK = 0,
    top_p: TopP = 0.9,
    repetition_penalty: RepetitionPenalty = 1.0,
    max_tokens: MaxTokens = 256,
    stop: Stop = None,
    seed: Seed = None,
    device: Device = "auto",
) -> None:
    """Talk to a model in the terminal.

    Examples: `minimind chat`, `minimind chat sft`, `minimind chat models:/minimind-sft@candidate --temperature 0`
    """
    from minimind.infer.chat import chat as talk
    from minimind.infer.generate import load

    sampling = _sampling(temperature, top_k, top_p, repetition_penalty, max_tokens, stop, seed)
    talk(load(_local().find_model(model), device=device), sampling=sampling, system=system or "", console=console)


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="What to go on from; `-` reads standard input.")],
    model: Annotated[str, typer.Option("--model", "-m", help="As for `chat`.")] = "chat",
    raw: Annotated[bool, typer.Option("--raw", help="Continue the text itself, without the chat format.")] = False,
    system: System = None,
    temperature: Temperature = 0.7,
    top_k: TopK = 0,
    top_p: TopP = 0.9,
    repetition_penalty: RepetitionPenalty = 1.0,
    max_tokens: MaxTokens = 256,
    stop: Stop = None,
    seed: Seed = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Answer one prompt.

    Examples: `minimind generate "What does json.dumps do?"`, `minimind generate --raw -m pretrain "def "`
    """
    from minimind.infer.generate import complete, load, prompt_ids, stream_text

    sampling = _sampling(temperature, top_k, top_p, repetition_penalty, max_tokens, stop, seed)
    loaded = load(_local().find_model(model), device=device)
    text = sys.stdin.read() if prompt == "-" else prompt
    ids = prompt_ids(loaded.tokenizer, text, system=system or "", raw=raw)
    if as_json:
        done = complete(loaded.model, loaded.tokenizer, ids, sampling=sampling)
        answer = {"text": done.text, "tokens": done.tokens, "finish_reason": done.finish_reason}
        console.print_json(json.dumps(answer, ensure_ascii=False))
        return
    for piece in stream_text(loaded.model, loaded.tokenizer, ids, sampling=sampling):
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")


@app.command()
def runs(count: Annotated[int, typer.Option("--count", "-n", help="How many.")] = 20, as_json: AsJson = False) -> None:
    """List the newest runs. Example: `minimind runs -n 5`"""
    _local().runs(console, count=count, as_json=as_json)


@app.command()
def report(as_json: AsJson = False) -> None:
    """Print the newest report card. Example: `minimind report --json`"""
    card = _local().newest_report()
    if as_json:
        console.print_json((card.dir / "report.json").read_text(encoding="utf-8"))
        return
    from rich.markdown import Markdown

    console.print(Markdown((card.dir / "report.md").read_text(encoding="utf-8")))
    console.print(f"\n{card.dir / 'report.html'}", highlight=False, soft_wrap=True)


@app.command()
def fsck(as_json: AsJson = False) -> None:
    """Prove every artifact against its seal; exit code 1 if one is damaged. Example: `minimind fsck`"""
    if not _local().fsck(console, as_json=as_json):
        raise typer.Exit(1)


@app.command()
def sync() -> None:
    """Send MLflow what it missed while it was down. Example: `minimind sync`"""
    _local().sync(console)


def _local() -> ModuleType:
    """The module `flows.local`, with the environment Prefect and MLflow must find when they are imported."""
    if str(runtime.CHECKOUT) not in sys.path:
        sys.path.append(str(runtime.CHECKOUT))
    serve = importlib.import_module("flows.serve")
    for name, value in serve.environment(runtime.home()).items():
        os.environ[name] = value
    return importlib.import_module("flows.local")


def _pairs(parameters: list[str] | None) -> dict[str, str]:
    """`name=value` options as a mapping."""
    for parameter in parameters or ():
        if "=" not in parameter:
            raise ConfigError(f"-p {parameter}: write it as name=value, for example -p kind=chat")
    return {name.strip(): value for name, _, value in (parameter.partition("=") for parameter in parameters or ())}


def _accepted(local: ModuleType, stage: str, given: dict[str, Any]) -> dict[str, Any]:
    """The options that were given, checked against what the stage's flow takes."""
    taken = local.parameters_of(stage)
    used = {name: value for name, value in given.items() if value not in (None, False)}
    if unknown := [name for name in used if name not in taken and (name, used[name]) != ("recipe", "quickstart")]:
        raise ConfigError(f"stage {stage} takes no `{unknown[0]}`; it takes: {', '.join(sorted(taken))}")
    return {name: value for name, value in used.items() if name in taken}


def _say_how_to_go_on(local: ModuleType, stage: str, uri: str) -> None:
    lines = [f"\n[bold]{uri}[/bold]"]
    if stage in (local.FULL, "publish"):
        card = local.newest_report().dir / "report.html"
        lines += [
            f"report card  {card}",
            "talk to it   minimind chat",
            "both UIs     minimind up   (Prefect http://127.0.0.1:4200, MLflow http://127.0.0.1:5000)",
        ]
    console.print("\n".join(lines), highlight=False, soft_wrap=True)


def _sampling(
    temperature: float,
    top_k: int,
    top_p: float,
    repetition_penalty: float,
    max_tokens: int,
    stop: list[str] | None,
    seed: int | None,
) -> Any:
    from minimind.infer.sampling import Sampling

    values = {
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "repetition_penalty": repetition_penalty,
        "max_tokens": max_tokens,
        "stop": tuple(stop or ()),
        "seed": seed,
    }
    return Sampling.parse(values, origin="options")


def _plain(error: MiniMindError) -> str:
    return str(error).replace("[", r"\[")


if __name__ == "__main__":
    main()
