"""`minimind lint`, `trace`, `ledger` and `data show`: what a model learns from. Parses, calls, prints."""

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Optional

import typer
from rich.markup import escape

from minimind.cli.shared import AsJson, console, local
from minimind.data.kinds import RowKind
from minimind.errors import ConfigError

if TYPE_CHECKING:
    from minimind.artifact import Artifact
    from minimind.tokens.trainings import Training

TokensKinds = ("tokens",)
_LINTED = ("tokens", "shard", "clean", "ingest")
_TRAINED = ("pretrain", "sft", "dpo", "lora", "distill")
_MODEL_HELP = "pretrain, sft, dpo, …: the newest in the store; a models:/ URI; or a directory."


def lint(
    target: Annotated[
        str, typer.Argument(help="A file or folder of rows, or a token set or corpus: name, URI or directory.")
    ],
    kind: Annotated[
        Optional[RowKind],  # noqa: UP045
        typer.Option("--kind", "-k", help="What the rows are; by default told from the first of them."),
    ] = None,
    shape: Annotated[
        Literal["minimind", "alpaca", "sharegpt", "messages"], typer.Option(help="How the rows are written.")
    ] = "minimind",
    tokenizer: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--tokenizer", "-t", help="A tokenizer whose exported template is compared with the training's."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find what ruins a training silently, with file, line and remedy. Exit code 2 where a rule of level error fires.

    Examples: `minimind lint my.jsonl`, `minimind lint my.jsonl --kind chat --tokenizer tokenizer`,
    `minimind lint tokens-chat`, `minimind lint corpus --json`
    """
    from minimind.cli.inspect_print import print_lint
    from minimind.tokens.lint import lint as look

    place = target if _is_place(target) else str(find(target, _LINTED).dir)
    tokenizer_dir = None if tokenizer is None else _tokenizer_dir(tokenizer)
    report = look(place, kind=kind, shape=shape, tokenizer_dir=tokenizer_dir)
    if as_json:
        console.print_json(report.model_dump_json())
    else:
        print_lint(report, console)
    if report.errors:
        raise typer.Exit(2)


def trace(
    model: Annotated[Optional[str], typer.Argument(help=f"With --step: {_MODEL_HELP}")] = None,  # noqa: UP045
    text: Annotated[Optional[str], typer.Option("--text", help="Who saw this text, exactly as written?")] = None,  # noqa: UP045
    step: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--step", help="Which rows had this step of MODEL? Counted from 1, as in MLflow."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Rows of each corpus that are followed to their steps.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Find the rows, tokens, steps and models that saw a text; or the rows of a step, and what they were read from.

    Examples: `minimind trace --text "once upon a time"`, `minimind trace sft --step 12`
    """
    from minimind.artifact import Store
    from minimind.cli.inspect_print import print_step, print_text_trace
    from minimind.tokens.trace import trace_text
    from minimind.tokens.trace_step import trace_step
    from minimind.train.history import trainings

    if (text is None) == (step is None):
        raise ConfigError('give either --text "…" or MODEL --step N')
    if text is not None:
        if model is not None:
            raise ConfigError(f"--text looks in the whole store; leave `{model}` out, or ask for --step of it")
        found = trace_text(text, Store(), trainings(Store()), limit=limit)
        registered = registered_uris(found.models)
        if as_json:
            console.print_json(data={**found.model_dump(mode="json"), "registered": registered})
        else:
            print_text_trace(found, registered, console)
        return
    if model is None:
        raise ConfigError(f"--step {step} of which model? For example: minimind trace sft --step {step}")
    of_step = trace_step(_training(model), int(step or 0))
    console.print_json(of_step.model_dump_json()) if as_json else print_step(of_step, console)


def ledger(
    model: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(help=f"{_MODEL_HELP} By default the newest published one, or the newest trained."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Balance bytes, rows, documents, tokens and trained tokens by source, counted again. Exit code 1 if they do not.

    Examples: `minimind ledger`, `minimind ledger sft --json`
    """
    from minimind.cli.inspect_print import print_ledger
    from minimind.lineage import store_of
    from minimind.tokens.token_ledger import balance
    from minimind.train.history import trainings

    artifact = _newest_model() if model is None else find(model)
    books = balance(artifact, trainings(store_of(artifact)))
    if as_json:
        console.print_json(books.model_dump_json())
    else:
        print_ledger(books, console)
    if not books.balances:
        raise typer.Exit(1)


def show(
    target: Annotated[str, typer.Argument(help="A token set (tokens-chat, …) or a trained model (sft, …).")],
    step: Annotated[Optional[int], typer.Option("--step", help="A step's batch, counted from 1.")] = None,  # noqa: UP045
    row: Annotated[Optional[int], typer.Option("--row", help="A row of the packing plan, or a pair.")] = None,  # noqa: UP045
    document: Annotated[Optional[int], typer.Option("--document", help="A document, whole.")] = None,  # noqa: UP045
    split: Annotated[Literal["train", "val"], typer.Option(help="Of a token set.")] = "train",
    recipe: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--recipe", "-r", help="Length, batch and seed as this recipe's --stage has them."),
    ] = None,
    stage: Annotated[Optional[str], typer.Option(help="pretrain, sft, dpo, lora or distill.")] = None,  # noqa: UP045
    length: Annotated[Optional[int], typer.Option(min=1, help="Positions of a row.")] = None,  # noqa: UP045
    batch_tokens: Annotated[Optional[int], typer.Option(min=1, help="Positions of a step.")] = None,  # noqa: UP045
    seed: Annotated[Optional[int], typer.Option(help="Of the order of rows.")] = None,  # noqa: UP045
    rows: Annotated[int, typer.Option(min=1, help="Rows of a step that are shown.")] = 4,
    ids: Annotated[bool, typer.Option("--ids", help="Show each token's number.")] = False,
    html: Annotated[Optional[Path], typer.Option(help="Write a page instead of printing.")] = None,  # noqa: UP045
    as_json: AsJson = False,
) -> None:
    """Show the exact tokens a model gets: what is trained, where documents begin, padding, and where rows come from.

    Of a trained model the length, batch size, seed and token set are those it was trained with; of a token set those
    of its newest training, or what is given.

    Examples: `minimind data show sft --step 1`, `minimind data show tokens-chat --row 0 --ids`,
    `minimind data show tokens-chat --step 1 --recipe quickstart --stage sft --html step.html`
    """
    from minimind.cli.inspect_views import Batching, view_of

    given = {"length": length, "batch_tokens": batch_tokens, "seed": seed}
    batching = Batching(split=split, recipe=recipe, stage=stage, **given)
    view, title = view_of(
        find(target, (*TokensKinds, *_TRAINED)), batching, step=step, row=row, document=document, rows=rows
    )
    if html is not None:
        from minimind.runtime import write_atomic
        from minimind.tokens.microscope_page import page_of

        if not html.expanduser().resolve().parent.is_dir():
            raise ConfigError(f"--html {html}: there is no directory {html.parent}")
        write_atomic(html.expanduser(), page_of([view], title=title, facts={}).encode("utf-8", "replace"))
        console.print(str(html), highlight=False, soft_wrap=True)
    elif as_json:
        console.print_json(view.model_dump_json())
    else:
        from minimind.tokens.microscope_text import print_view

        print_view(view, console, ids=ids)


def _is_place(target: str) -> bool:
    """Whether a target is a path or an address rather than the name of an artifact."""
    return Path(target).expanduser().exists() or "://" in target or "/" in target and not target.startswith("models:/")


def find(name: str, kinds: tuple[str, ...] = ()) -> "Artifact":
    """The artifact of a name, a registry URI or a directory."""
    from minimind.artifact import Store
    from minimind.lineage import find_artifact

    if name.startswith("models:/"):
        name = str(local().resolve(name))
    return find_artifact(name, Store(), kinds=kinds)


def registered_uris(fingerprints: Collection[str]) -> dict[str, str]:
    """Fingerprint → registry URI of some artifacts, as far as they were recorded."""
    from minimind.artifact import Store
    from minimind.lineage import Lineage, node_of

    nodes = [node_of(artifact) for artifact in Store().all() if artifact.fingerprint in fingerprints]
    return local().registered(Lineage(nodes=nodes)) if nodes else {}


def _training(name: str) -> "Training":
    from minimind.train.history import training_of

    return training_of(find(name, _TRAINED))


def _tokenizer_dir(name: str) -> Path:
    path = Path(name).expanduser()
    return path if path.is_dir() else find(name, ("tokenizer",)).dir


def _newest_model() -> "Artifact":
    from minimind.artifact import Store, prove_small
    from minimind.errors import MissingError

    found = [a for a in Store().all() if a.kind == "publish"] or [a for a in Store().all() if a.kind in _TRAINED]
    if not found:
        raise MissingError(f"no model in {escape(str(Store().root))} yet; `minimind run` makes one")
    order = (*_TRAINED, "publish")  # of two in one second the later of the path
    return prove_small(max(found, key=lambda artifact: (artifact.manifest.created_at, order.index(artifact.kind))))
