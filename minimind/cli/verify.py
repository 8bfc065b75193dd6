"""`minimind verify`: prove on this machine that trainings are exact. Parses, calls, prints."""

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer
from rich.console import Console
from rich.table import Table

from minimind.cli.shared import AsJson, console
from minimind.errors import ConfigError

if TYPE_CHECKING:
    from minimind.train.verify import Proof, Subject

app = typer.Typer(
    no_args_is_help=True,
    help="Prove on this machine that trainings are exact to the bit: real processes, real SIGKILLs, a small model.",
)

StageOption = Annotated[str, typer.Option("--stage", help="pretrain, sft, dpo, lora or distill.")]
RecipeOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--recipe", "-r", help="Take settings and the model's shape from this recipe, rows stay made-up."),
]
SeedOption = Annotated[int, typer.Option("--seed", help="Of the moments of the kills.")]
SIZES = ("epochs", "tokens", "length", "batch_tokens", "micro_tokens", "mix", "warmup_steps", "processes", "nodes")
"""Settings of a recipe that the proof has its own of."""
SHOWN = 8
"""Digits of a digest in the table; `--json` has all."""


@app.command()
def resume(
    stage: StageOption = "pretrain",
    kills: Annotated[int, typer.Option("--kills", help="SIGKILLs to all processes of the training.")] = 5,
    ranks: Annotated[int, typer.Option("--ranks", help="Processes that train together.")] = 1,
    seed: SeedOption = 0,
    recipe: RecipeOption = None,
    as_json: AsJson = False,
) -> None:
    """Kill a training at random moments; what goes on must be what was never killed. Exit code 1 if it is not.

    Examples: `minimind verify resume --stage sft --kills 5`, `minimind verify resume --ranks 2 --seed 7 --json`
    """
    from minimind.train.verify import prove_resume

    subject = _subject(stage, recipe)
    with _room() as (root, tell):
        proof = prove_resume(root, subject, kills=kills, ranks=ranks, seed=seed, tell=tell)
    _end(proof, as_json=as_json)


@app.command()
def invariance(
    stage: StageOption = "pretrain",
    world: Annotated[str, typer.Option("--world", help="Numbers of processes, with commas.")] = "1,2",
    accum: Annotated[
        str, typer.Option("--accum", help="Micro-batches of each process in a step, in the same order.")
    ] = "4,2",
    seed: SeedOption = 0,
    recipe: RecipeOption = None,
    as_json: AsJson = False,
) -> None:
    """Train with `exact` in several layouts, and with a change between them. Exit code 1 if the bits differ.

    `--world 1,2 --accum 4,2` is one process with four micro-batches, and two with two each.

    Examples: `minimind verify invariance --world 1,2,4 --accum 4,2,1`, `minimind verify invariance --stage dpo`
    """
    from minimind.train.verify import prove_invariance

    worlds, accums = _numbers(world, "--world"), _numbers(accum, "--accum")
    if len(worlds) != len(accums):
        raise ConfigError(
            f"--world {world} and --accum {accum} go together, number by number; give as many of both, for example "
            "--world 1,2 --accum 4,2"
        )
    subject = _subject(stage, recipe)
    with _room() as (root, tell):
        proof = prove_invariance(root, subject, layouts=list(zip(worlds, accums, strict=True)), seed=seed, tell=tell)
    _end(proof, as_json=as_json)


@contextmanager
def _room() -> Iterator[tuple[Path, Callable[[str], None]]]:
    """A directory for a while, and what says how far it is: a line that changes, on stderr."""
    root = Path(tempfile.mkdtemp(prefix="minimind-verify-"))
    try:
        if not sys.stderr.isatty():
            yield root, lambda line: print(line, file=sys.stderr, flush=True)
        else:
            with Console(stderr=True).status("making rows and a tokenizer") as status:
                yield root, status.update
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _subject(stage: str, recipe: str | None) -> "Subject":
    from minimind.train.stage_configs import CONFIGS
    from minimind.train.verify import Subject

    if stage not in CONFIGS:
        raise ConfigError(f"--stage {stage}: no training; give one of {', '.join(CONFIGS)}")
    if recipe is None:
        return Subject(stage, {})  # type: ignore[arg-type]
    from minimind.recipe import load_recipe

    loaded = load_recipe(recipe)
    section = getattr(loaded, stage)
    if section is None:
        raise ConfigError(f"--recipe {recipe} has no section [{stage}]; give another --stage or recipe")
    given: dict[str, Any] = section.model_dump(exclude_unset=True, exclude={*SIZES, "teacher"})
    return Subject(stage, given, loaded.model)  # type: ignore[arg-type]


def _numbers(text: str, option: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"{option} {text}: write numbers with commas between them, for example 1,2") from None


def _end(proof: "Proof", *, as_json: bool) -> None:
    if as_json:
        console.print_json(proof.model_dump_json())
    else:
        _print(proof)
    if not proof.equal:
        raise typer.Exit(1)


def _print(proof: "Proof") -> None:
    table = Table(title=f"verify {proof.what}: {proof.stage}")
    for heading in ("training", "ranks × micro", "s", "loss", "weights", "optimizer", "metrics"):
        table.add_column(heading)
    for o in proof.outcomes:
        loss = "–" if o.loss is None else f"{o.loss:.6f}"
        digests = [digest[:SHOWN] for digest in (o.weights, o.optimizer, o.metrics)]
        table.add_row(o.name, f"{o.ranks} × {o.accumulated}", f"{o.seconds:.0f}", loss, *digests)
    console.print(table)
    for o in proof.outcomes:
        if o.kills:
            console.print(f"{o.name}: SIGKILL to all its processes {', '.join(o.kills)}", highlight=False)
    colour = "green" if proof.equal else "red"
    console.print(f"[{colour}]{proof.verdict}[/{colour}]", highlight=False)
