"""`minimind eval`: how good one model is, on what it has not seen. Parses, calls, prints."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from minimind.cli.models import Device, ModelArgument
from minimind.cli.shared import AsJson, console, local
from minimind.errors import ConfigError

if TYPE_CHECKING:
    from minimind.evaluate.alone import Examination
    from minimind.evaluate.results import Figure

MAX_LEAKS = 5
"""Items that were seen, printed of each task; the JSON has all."""


def _files(flag: str, help_text: str) -> Any:
    return typer.Option(flag, help=f"{help_text}; may be given often.")


def evaluate(
    model: ModelArgument = "chat",
    suite: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            "--suite",
            "-s",
            help="text, chat, preference (held-out rows), arithmetic, tools, instructions, or a set by name: mmlu, …",
        ),
    ] = None,
    text: Annotated[Optional[list[str]], _files("--text", "Texts, for bits per byte")] = None,  # noqa: UP045
    chats: Annotated[Optional[list[str]], _files("--chats", "Conversations, for the assistant's words")] = None,  # noqa: UP045
    pairs: Annotated[Optional[list[str]], _files("--pairs", "Preference pairs")] = None,  # noqa: UP045
    choices: Annotated[Optional[list[str]], _files("--choices", "Multiple choice: question, choices, answer")] = None,  # noqa: UP045
    cloze: Annotated[Optional[list[str]], _files("--cloze", "Cloze: context, choices, answer")] = None,  # noqa: UP045
    prompts: Annotated[Optional[list[str]], _files("--prompts", "Prompts with checks on the answers")] = None,  # noqa: UP045
    recipe: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--recipe", "-r", help="Take the settings of its [evaluate]; files are added to its files."),
    ] = None,
    limit: Annotated[Optional[int], typer.Option(min=1, help="Items of each task at most.")] = None,  # noqa: UP045
    raw: Annotated[
        Optional[bool],  # noqa: UP045
        typer.Option("--raw/--chat-format", help="Continue prompts as texts; by default only of a pretrained model."),
    ] = None,
    lm_eval: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--lm-eval", help="Tasks of EleutherAI's lm-eval instead, as a,b; needs the extra lm-eval."),
    ] = None,
    include_path: Annotated[Optional[Path], typer.Option(help="A folder of lm-eval's task files.")] = None,  # noqa: UP045
    device: Device = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16.")] = "auto",
    out: Annotated[Optional[Path], typer.Option("--out", help="Write evaluation.json and its items there.")] = None,  # noqa: UP045
    as_json: AsJson = False,
) -> None:
    """Measure a model: on all that its corpora hold out and the prompts that come with MiniMind, or on what is named.

    Every figure has its 95 % interval and the number of items, beside chance and a byte n-gram of the training text.

    Examples: `minimind eval`, `minimind eval sft --suite text --suite arithmetic`,
    `minimind eval models:/minimind-dpo@champion --choices exam.jsonl --json`, `minimind eval ./mine --text book.txt`,
    `minimind eval dpo --lm-eval arc_easy,piqa --limit 100`
    """
    directory = local().find_model(model)
    if lm_eval is not None:
        _with_lm_eval(directory, lm_eval, limit=limit, include_path=include_path, device=device, precision=precision)
        return
    from minimind.evaluate.alone import examine_alone

    files = {"texts": text, "chats": chats, "pairs": pairs, "choices": choices, "cloze": cloze}
    config = _settings(recipe, {**files, "checked_prompts": prompts}, limit, device=device, precision=precision)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    shown = not as_json and sys.stderr.isatty()
    with Progress(*columns, console=Console(stderr=True), disable=not shown, transient=True) as bar:
        task = bar.add_task("reading the model", total=None)
        found = examine_alone(
            directory,
            config,
            suite or (),
            raw=raw,
            start=lambda total: bar.update(task, total=total, description="tasks"),
            advance=lambda name: bar.update(task, advance=1, description=f"{name} done"),
        )
    if out is not None:
        found.write(out)
    console.print_json(found.evaluation.model_dump_json()) if as_json else _print(found, model)


def _settings(
    recipe: str | None, files: dict[str, list[str] | None], limit: int | None, *, device: str, precision: str
) -> Any:
    """`[evaluate]` of a recipe, or as it is by default, with the given files and limits."""
    from minimind.evaluate.config import EvaluateConfig
    from minimind.recipe import load_recipe

    config = load_recipe(recipe).evaluate if recipe else EvaluateConfig()
    changes: dict[str, Any] = {"device": device, "precision": precision}
    changes |= {name: (*getattr(config, name), *given) for name, given in files.items() if given}
    if limit is not None:
        changes |= dict.fromkeys(("max_documents", "max_chats", "max_open_ended", "max_pairs", "max_items"), limit)
    return EvaluateConfig.parse({**dict(config), **changes}, origin="options")


def _with_lm_eval(directory: Path, tasks: str, **options: Any) -> None:
    from minimind.evaluate.lm_eval import run_lm_eval

    names = [name.strip() for name in tasks.split(",") if name.strip()]
    if not names:
        raise ConfigError("--lm-eval names no task; for example --lm-eval arc_easy,piqa")
    console.print_json(data=run_lm_eval(directory, names, **options)["results"], default=str)


def _print(found: "Examination", model: str) -> None:
    from minimind.evaluate.results import METRICS

    result = found.evaluation.models[found.name]
    table = Table(
        title=f"{model}: {result.parameters:,} parameters, {result.context} tokens of context", title_justify="left"
    )
    for heading in ("task", "metric"):
        table.add_column(heading)
    for heading in ("value", "95 % interval", "n", "chance", "byte n-gram", "unseen items"):
        table.add_column(heading, justify="right")
    for name, task in result.tasks.items():
        about = found.evaluation.tasks[name]
        for metric, figure in task.figures.items():
            table.add_row(
                escape(name) if metric == task.leading else "",
                METRICS[metric].title,
                *_shown(figure, metric),
                _number(about.chance.get(metric), metric),
                _number(about.ngram[metric].value if metric in about.ngram else None, metric),
                _clean(task.clean.get(metric), metric, leaked=task.leaked),
                end_section=metric == list(task.figures)[-1],
            )
    console.print(table)
    for leak in result.leaks[:MAX_LEAKS]:
        console.print(
            f"[yellow]seen in training[/yellow] {escape(f'{leak.task} {leak.item}: {leak.share:.0%} in {leak.where}')}"
        )
    if len(result.leaks) > MAX_LEAKS:
        console.print(f"… and {len(result.leaks) - MAX_LEAKS} more; --json has them all")
    for reason in result.unchecked:
        console.print(f"not looked for in training data: {escape(reason)}", highlight=False)


def _shown(figure: "Figure", metric: str) -> tuple[str, str, str]:
    low, high = _number(figure.interval.low, metric), _number(figure.interval.high, metric)
    return f"[bold]{_number(figure.value, metric)}[/bold]", f"{low} – {high}", f"{figure.n:,}"


def _clean(figure: "Figure | None", metric: str, *, leaked: int | None) -> str:
    if figure is None:
        return "all" if leaked == 0 else "–"
    return f"{_number(figure.value, metric)} ({figure.n:,})"


def _number(value: float | None, metric: str) -> str:
    from minimind.evaluate.results import METRICS

    if value is None:
        return "–"
    return f"{value:.1%}" if METRICS[metric].is_share else f"{value:.3f}"
