"""`minimind data …`: check, clean and report on rows, with or without a pipeline. Parses, calls, prints."""

import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from minimind.cli.shared import AsJson, console
from minimind.data.kinds import RowKind
from minimind.events import EVENTS_FILE, EventReader

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Check and clean rows, and see what became of each of them.",
)

Paths = Annotated[
    list[str],
    typer.Argument(
        metavar="PATH...", help="Files or folders: JSONL (plain, .gz, .zst), Parquet, Arrow or text; URLs too."
    ),
]
KindOption = Annotated[RowKind, typer.Option("--kind", "-k", help="What the rows are.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="A directory for what comes out; made if need be.")]
ShapeOption = Annotated[
    Literal["minimind", "alpaca", "sharegpt", "messages"], typer.Option(help="How the rows are written.")
]
Workers = Annotated[int, typer.Option(min=0, help="Processes; 0 takes one for each core where that pays.")]


@app.command()
def validate(
    paths: Paths,
    kind: KindOption,
    out: Out,
    shape: ShapeOption = "minimind",
    workers: Workers = 0,
    as_json: AsJson = False,
) -> None:
    """Parse and check rows, and do no more: good rows unchanged to kept.jsonl, bad ones to dropped.jsonl.

    Every line of dropped.jsonl says file, line, reason and detail. Exit code 2, and nothing written, where a file
    as a whole is wrong.

    Example: `minimind data validate my.jsonl.gz --kind chat --out checked`
    """
    from minimind.data.reading.validate import validate as check

    done = check(paths, kind, out, shape=shape, workers=workers)
    if as_json:
        console.print_json(done.model_dump_json())
        return
    console.print(
        f"{done.lines:,} lines that are not blank = {done.kept:,} kept + {done.dropped:,} dropped", highlight=False
    )
    _print_reasons(done.reasons)
    console.print(str(out), highlight=False, soft_wrap=True)


@app.command()
def clean(
    paths: Paths,
    kind: KindOption,
    out: Out,
    data: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--data", "-d", help="A data spec whose [clean] settings are used; by default all rules are on."),
    ] = None,
    evaluation: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--evaluation", "-e", help="A file of evaluation questions that must not be in the rows."),
    ] = None,
    override: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--set", "-s", help="A setting of [clean], as key=value; may be given often."),
    ] = None,
    shape: ShapeOption = "minimind",
    workers: Workers = 0,
    as_json: AsJson = False,
) -> None:
    """Validate rows, then repair, filter and deduplicate them; the report says what became of each.

    In the output directory: kept.jsonl, dropped.jsonl, changed.jsonl.zst, report.html and report.md.

    Examples: `minimind data clean corpus/ --kind pretrain --out cleaned`,
    `minimind data clean a.jsonl --kind pretrain --out cleaned -e exam.jsonl -s languages=[]`
    """
    from minimind.data.standalone import clean_files

    rules = _rules(data, evaluation or [], override or [])
    with _progress(quiet=as_json) as follow:
        done = clean_files(paths, kind, out, rules=rules, shape=shape, workers=workers, on_start=follow)
    if as_json:
        console.print_json(done.model_dump_json())
        return
    console.print(f"{done.rows_in:,} rows = {done.rows_kept:,} kept + {done.rows_dropped:,} dropped", highlight=False)
    reasons = {name.removeprefix("dropped_"): n for name, n in {**done.read, **done.cleaned}.items() if _is_drop(name)}
    _print_reasons(reasons)
    changed = {name.removeprefix("changed_"): n for name, n in done.cleaned.items() if name.startswith("changed_")}
    if changed:
        console.print("changed: " + ", ".join(f"{rule} {count:,}" for rule, count in changed.items()), highlight=False)
    console.print(str(out / "report.html"), highlight=False, soft_wrap=True)


@app.command()
def report(
    directory: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Argument(
            help="An output directory of `data clean`, or a clean artifact; by default the newest artifact."
        ),
    ] = None,
    kind: Annotated[RowKind, typer.Option("--kind", "-k", help="Of the newest artifact.")] = "pretrain",
    as_json: AsJson = False,
) -> None:
    """Say what became of every row: the funnel by rule and source, examples, duplicates, languages, the ledger.

    Examples: `minimind data report`, `minimind data report --kind chat`, `minimind data report cleaned/`
    """
    from minimind.data.ledger import Ledger
    from minimind.data.reports.report import read_report_text, report_of

    place = directory or _newest_clean(kind)
    page = report_of(place)
    if as_json:
        console.print_json(json.dumps(Ledger.read(place).figures()))
        return
    from rich.markdown import Markdown

    console.print(Markdown(read_report_text(place)))
    console.print(f"\n{page}", highlight=False, soft_wrap=True)


def _rules(data: str | None, evaluation: list[str], overrides: list[str]) -> Any:
    from minimind.config import apply_overrides
    from minimind.data.rules.settings import CleanRules
    from minimind.data.spec import load_spec

    rules = load_spec(data).clean if data else CleanRules()
    values = {**rules.model_dump(), **apply_overrides({}, overrides)}
    values["evaluation"] = [*values["evaluation"], *(str(Path(name).resolve()) for name in evaluation)]
    return CleanRules.parse(values, origin="options")


def _newest_clean(kind: str) -> Path:
    from minimind.artifact import Store, prove_small
    from minimind.errors import MissingError

    found = [a for a in Store().all() if a.kind == "clean" and a.manifest.parts.config.get("rows") == kind]
    if not found:
        raise MissingError(f"no cleaned {kind} rows yet; `minimind run clean -p kind={kind}` makes them")
    return prove_small(max(found, key=lambda artifact: artifact.manifest.created_at)).dir


def _is_drop(name: str) -> bool:
    return name.startswith("dropped_")


def _print_reasons(reasons: dict[str, int]) -> None:
    for reason, count in sorted(reasons.items(), key=lambda item: -item[1]):
        console.print(f"  {reason:<22}{count:>10,}", highlight=False)


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Callable[[str, Path], None]]:
    """A progress bar on a terminal, fed from the events of whichever stage was started last."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
    )
    bar = Progress(*columns, console=Console(stderr=True), disable=quiet or not sys.stderr.isatty(), transient=True)
    current: list[tuple[TaskID, EventReader]] = []
    ended = threading.Event()

    def start(stage: str, directory: Path) -> None:
        current[:] = [(bar.add_task(stage), EventReader(directory / EVENTS_FILE))]

    def watch() -> None:
        while not ended.wait(0.3):
            if not current:
                continue
            task, reader = current[0]
            moved = [event for event in reader.pending() if event.kind == "progress"]
            reader.take()
            if moved:
                bar.update(task, completed=moved[-1].step, total=moved[-1].total)

    watcher = threading.Thread(target=watch, daemon=True)
    with bar:
        watcher.start()
        try:
            yield start
        finally:
            ended.set()
            watcher.join()
