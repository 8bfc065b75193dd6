"""`minimind tokenizer …`: look at a tokenizer, compare other vocabularies, see a text cut. Parses, calls, prints."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from minimind.cli.shared import AsJson, console

if TYPE_CHECKING:
    from minimind.artifact import Artifact
    from minimind.tokens.tokenizer_sweep import ModelCost

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode="markdown", help="See what a tokenizer makes of a corpus or a text."
)

TokenizerArgument = Annotated[
    Optional[str],  # noqa: UP045
    typer.Argument(help="A directory with a tokenizer, or a models:/ URI; by default the newest that was made."),
]
COLOURS = ("black on bright_blue", "black on bright_yellow")


@app.command()
def report(
    tokenizer: TokenizerArgument = None,
    sweep: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Learn vocabularies of these sizes too, for example 3200,6400,12800,32000. Takes minutes."),
    ] = None,
    recipe: Annotated[
        str, typer.Option("--recipe", "-r", help="Whose model the sizes of the sweep are costed for.")
    ] = "quickstart",
    sample_mb: Annotated[int, typer.Option(min=1, help="Megabytes of training text the sweep learns from.")] = 16,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="A directory for the report with the sweep; made if need be.")
    ] = Path("tokenizer-report"),
    as_json: AsJson = False,
) -> None:
    """Compression by language and source, round-trip failures, unused, rare and longest tokens; other sizes beside it.

    Examples: `minimind tokenizer report`, `minimind tokenizer report --sweep 3200,6400,12800,32000 --out sizes`
    """
    from minimind.tokens.tokenizer_report import MARKDOWN_FILE, read_report, write_report

    artifact = _find(tokenizer)
    made, place = read_report(artifact.dir), artifact.dir
    if sweep:
        made, place = _with_sweep(made, artifact, _sizes(sweep), recipe, sample_mb, quiet=as_json), out
        out.mkdir(parents=True, exist_ok=True)
        write_report(made, out)
    if as_json:
        console.print_json(made.model_dump_json())
        return
    from rich.markdown import Markdown

    console.print(Markdown((place / MARKDOWN_FILE).read_text(encoding="utf-8")))
    console.print(f"\n{place / 'report.html'}", highlight=False, soft_wrap=True)


@app.command()
def encode(
    text: Annotated[str, typer.Argument(help="The text; `-` reads standard input.")],
    tokenizer: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--tokenizer", "-t", help="As for `report`; a model's directory does, too."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show a text as its tokens: each piece in a colour of its own, and the ids.

    A special token's name is text like any other here: only `minimind chat` and the trainings put the tokens in.

    Example: `minimind tokenizer encode "def f(x): return 1984"`
    """
    import sys

    from rich.text import Text

    from minimind.tokens.tokenizer_report import pieces_of

    found = _load(tokenizer)
    text = sys.stdin.read() if text == "-" else text
    ids, size = found.encode(text), len(text.encode("utf-8", "replace"))
    pieces = pieces_of(found, text)
    if as_json:
        console.print_json(json.dumps({"ids": ids, "pieces": pieces, "bytes": size}, ensure_ascii=False))
        return
    line = Text()
    for number, piece in enumerate(pieces):
        line.append(piece, style=COLOURS[number % 2])
    console.print(line, soft_wrap=True)
    console.print(" ".join(map(str, ids)), highlight=False, soft_wrap=True)
    ratio = f", {size / len(ids):.2f} bytes per token" if ids else ""
    console.print(f"{len(ids)} tokens, {size} bytes{ratio}", highlight=False)


def _sizes(sweep: str) -> list[int]:
    from minimind.errors import ConfigError

    try:
        sizes = [int(size) for size in sweep.replace(" ", "").split(",")]
    except ValueError:
        sizes = []
    if not sizes or min(sizes) < 300:
        raise ConfigError(f"--sweep {sweep}: write sizes of 300 or more with commas, for example 3200,6400,12800,32000")
    return sorted(set(sizes))


def _with_sweep(made: Any, artifact: "Artifact", sizes: list[int], recipe: str, sample_mb: int, *, quiet: bool) -> Any:
    """The report with a line for each vocabulary, learnt and measured on the tokenizer's own corpus."""
    from minimind.errors import MissingError
    from minimind.tokens.tokenizer_report import held_out_of
    from minimind.tokens.tokenizer_sweep import sweep
    from minimind.tokens.vocabulary import sample_texts

    corpus = artifact.dir.parents[1] / "shard" / artifact.manifest.parents.get("corpus", "")
    if not (corpus / "train").is_dir():
        raise MissingError(f"{artifact.dir}: its corpus is not in the store any more; run the stage tokenizer again")
    sample = list(sample_texts(corpus / "train", sample_mb << 20, seed=0))
    held_out = list(_held_out(corpus / held_out_of(made)))
    lines = []
    for line in sweep(sample, held_out, sizes=sizes, cost=_cost(recipe)):
        lines.append(line)
        if not quiet:
            figure = f"{line.bytes_per_token['all']:.3f} bytes per token" if line.bytes_per_token else line.note
            console.print(f"{line.name:<24}{figure}", highlight=False, soft_wrap=True)
    size = sum(len(text.encode("utf-8")) for text in sample)
    return made.replace(sweep=lines, sweep_bytes=size)


def _held_out(directory: Path) -> Iterator[tuple[str, str]]:
    from minimind.data.shards import read_batches
    from minimind.tokens.tokenizer_tally import UNKNOWN_LANGUAGE

    for batch in read_batches(directory, ["language", "text"]):
        languages = (language or UNKNOWN_LANGUAGE for language in batch["language"].to_pylist())
        yield from zip(languages, batch["text"].to_pylist(), strict=True)


def _cost(recipe: str) -> "ModelCost":
    from minimind.model.config import count_parameters
    from minimind.recipe import load_recipe
    from minimind.tokens.tokenizer_sweep import ModelCost

    model = load_recipe(recipe).model
    embedding = model.vocab_size * model.hidden_size * (1 if model.tie_embeddings else 2)
    others = count_parameters(model) - embedding
    return ModelCost(hidden_size=model.hidden_size, other_parameters=others, tied=model.tie_embeddings)


def _load(tokenizer: str | None) -> Any:
    from minimind.tokens.foreign_tokenizer import open_foreign
    from minimind.tokens.tokenizer import Tokenizer

    if tokenizer and Path(tokenizer).expanduser().is_dir():
        return Tokenizer.load(Path(tokenizer).expanduser())
    if tokenizer and Path(tokenizer).expanduser().is_file():
        return open_foreign(tokenizer)
    return Tokenizer.load(_find(tokenizer).dir)


def _find(tokenizer: str | None) -> "Artifact":
    """The artifact of a directory or registry URI; by default the newest tokenizer in the store."""
    from minimind.artifact import Store, open_artifact, prove_small
    from minimind.cli.shared import local
    from minimind.errors import MissingError

    if tokenizer is None:
        found = [artifact for artifact in Store().all() if artifact.kind == "tokenizer"]
        if not found:
            raise MissingError("no tokenizer yet; `minimind run tokenizer` makes one")
        return prove_small(max(found, key=lambda artifact: artifact.manifest.created_at))
    if tokenizer.startswith("models:/"):
        return open_artifact(local().resolve(tokenizer))
    return prove_small(open_artifact(Path(tokenizer).expanduser()))
