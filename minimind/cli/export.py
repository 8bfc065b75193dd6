"""`minimind export` and `minimind import`: models to and from other programs. Parses, calls, prints."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Optional

import typer
from rich.markup import escape
from rich.table import Table

from minimind.cli.models import ModelArgument
from minimind.cli.shared import AsJson, console, local
from minimind.errors import ConfigError

if TYPE_CHECKING:
    from minimind.export.exporting import Record

FORMATS = ("hf", "gguf", "adapter")


def export(
    model: ModelArgument = "chat",
    to: Annotated[str, typer.Option("--to", help="hf, gguf, adapter; several with commas.")] = "hf,gguf",
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--out", help="The folder to write; by default exports/<name of the model>."),
    ] = None,
    dtype: Annotated[Literal["bf16", "fp32", "fp16"], typer.Option(help="Of the tensors for transformers.")] = "bf16",
    gguf_type: Annotated[
        Literal["f32", "f16", "bf16", "q8_0"], typer.Option("--gguf-type", help="Of the matrices in the GGUF file.")
    ] = "f16",
    base: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--base", help="Name or path of the exported base model, written into the adapter."),
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Load it with the stock libraries and compare; exit code 1 if it differs.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an export that is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a model for transformers, llama.cpp or peft, with a model card, into one folder.

    Examples: `minimind export`, `minimind export dpo --to hf --dtype fp32 --out my_model --verify`,
    `minimind export sft --to gguf --gguf-type q8_0`, `minimind export lora --to adapter --base my_base`
    """
    from minimind.export.exporting import export_model
    from minimind.export.settings import ExportConfig
    from minimind.infer.generate import name_of

    config = ExportConfig(to=_formats(to), dtype=dtype, gguf_type=gguf_type, base=base)
    directory = local().find_model(model)
    target = out or Path("exports") / name_of(directory)
    with console.status("reading the model") as status:
        record = export_model(directory, target, config=config, force=force, verify=verify, tell=status.update)
    if as_json:
        console.print_json(json.dumps({"folder": str(target.absolute()), **record.model_dump(mode="json")}))
        return
    _print(record, target)


def import_(
    path: Annotated[Path, typer.Argument(help="A folder of Hugging Face's, or a .pth or .pt file.")],
    tokenizer: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--tokenizer", help="Where its tokenizer is, if not beside it: a folder, or a file."),
    ] = None,
    preset: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--preset", help="The shape of a .pth, where its tensors do not tell all of it."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Take a model from elsewhere into the store, checked: Llama, Qwen3, upstream MiniMind, or a state dict.

    Examples: `minimind import my_model`, `minimind import full_sft_768.pth --tokenizer minimind/model`
    """
    from minimind.artifact import Store
    from minimind.export.importing import import_model

    artifact, reused = import_model(path, tokenizer=tokenizer, preset=preset, store=Store())
    summary = artifact.summary()
    if as_json:
        found = {"directory": str(artifact.dir), "fingerprint": artifact.fingerprint, "reused": reused}
        console.print_json(json.dumps({**found, "figures": summary.figures, "warnings": summary.warnings}))
        return
    for warning in summary.warnings:
        console.print(f"[yellow]![/yellow] {escape(warning)}", highlight=False, soft_wrap=True)
    figures = ", ".join(f"{name} {value}" for name, value in summary.figures.items())
    console.print(f"{figures}{' (was there already)' if reused else ''}", highlight=False, soft_wrap=True)
    console.print(str(artifact.dir), highlight=False, soft_wrap=True)
    console.print(f"talk to it   minimind chat {artifact.dir}", highlight=False, soft_wrap=True)


def _formats(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    unknown = [name for name in names if name not in FORMATS]
    if unknown or not names:
        given = unknown[0] if unknown else "nothing"
        raise ConfigError(
            f"--to {text}: {given} is no format; give one or several of {', '.join(FORMATS)}, with commas"
        )
    return names


def _print(record: "Record", target: Path) -> None:
    for entry in record.files:
        console.print(f"{entry.size:>13,}  {entry.path}", highlight=False)
    if record.checks:
        table = Table(
            "format", "library", "difference", "of the logits", "allowed", "by rounding", "ids", "greedy answers"
        )
        for check in record.checks:
            parted = {"at a near-tie": check.near_ties, "by another expert": check.rerouted}
            why = "".join(f", {count} {reason}" for reason, count in parted.items() if count)
            table.add_row(
                f"{check.format} {check.stored}",
                check.library,
                f"{check.typical:.2e} (median)" if check.judged == "typical" else f"{check.difference:.2e}",
                f"{check.relative:.1e}",
                f"{check.tolerance:.0e}",
                f"{check.rounding / check.scale:.1e}",
                f"{check.texts - check.unequal_ids} of {check.texts}",
                f"{check.equal_greedy} of {check.greedy}{why}",
            )
        console.print(table)
    console.print(str(target.absolute()), highlight=False, soft_wrap=True)
