"""A model of ours as one folder that others load: `minimind export`.

    config.json generation_config.json model.safetensors tokenizer.*     --to hf: stock transformers
    <name>-<type>.gguf                                                   --to gguf: llama.cpp
    adapter/                                                             --to adapter: peft
    README.md export.json                                                the model card; what was written, with sha256

All formats go into one folder, as on a hub; it is there whole or not at all, and with `verify` only if it passed. The
merged model is what hf and gguf hold of a LoRA training. Nothing is sharded: the largest model has 0.8 GB in fp32.

Not here: which classes compute the same (`architecture`), reading somebody else's model (`importing`).
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from minimind import runtime
from minimind.artifact import FileEntry
from minimind.config import Config
from minimind.errors import ConfigError, MissingError
from minimind.export.adapter import ADAPTER_DIR, require_adapter, write_adapter
from minimind.export.architecture import architecture_of
from minimind.export.card import CARD_FILE, adapter_card, export_command, model_card
from minimind.export.folder import RECORD_FILE, entries, whole_folder
from minimind.export.gguf_model import write_gguf
from minimind.export.gguf_tokenizer import gguf_tokenizer
from minimind.export.hf_model import write_hf_folder
from minimind.export.settings import Check, ExportConfig, Format
from minimind.export.source import Source, open_source
from minimind.export.verify import require_passed, verify_adapter, verify_gguf, verify_hf
from minimind.model.config import ModelConfig
from minimind.model.transformer import Transformer
from minimind.model.weights import load_model

_LARGEST_HALF = torch.finfo(torch.float16).max


class Record(Config):
    """export.json: what was written, from what, by what."""

    name: str
    fingerprint: str | None
    """Of the artifact that was exported; None for a plain directory."""
    weights_sha256: str
    parents: dict[str, str]
    model: ModelConfig
    settings: ExportConfig
    command: str
    checks: list[Check]
    files: list[FileEntry]
    created_at: str
    libraries: dict[str, str]
    code_commit: str | None


@dataclass(frozen=True)
class _Job:
    """An export under way."""

    source: Source
    config: ExportConfig
    model: Transformer
    folder: Path

    @property
    def gguf_file(self) -> Path:
        return self.folder / f"{self.source.name}-{self.config.gguf_type}.gguf"


def export_model(
    directory: Path,
    out: Path,
    *,
    config: ExportConfig,
    force: bool = False,
    verify: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> Record:
    """Write the model in `directory` to the folder `out`, and prove it with `verify`; `tell` hears how far it is.

    Raises ConfigError for what no format can hold, StageError where verification fails. Then there is no folder.
    """
    source = open_source(directory)
    _require_possible(source, config)
    with whole_folder(out, force=force) as folder:
        model = load_model(directory).eval()
        job = _Job(source, config, model, folder)
        writers: dict[Format, Callable[[_Job], None]] = {
            "hf": _write_hf,
            "gguf": _write_gguf,
            "adapter": _write_adapter,
        }
        for kind in config.to:
            tell(f"writing {kind}")
            writers[kind](job)
        checks = _checked(job, tell) if verify else []
        _write_cards(job, checks)
        record = _record(job, checks)
        runtime.write_json(folder / RECORD_FILE, record.model_dump(mode="json"))
    return record


def _require_possible(source: Source, config: ExportConfig) -> None:
    """Raise an error for what could not be written, before anything is."""
    architecture_of(source.config)
    if "gguf" in config.to:
        gguf_tokenizer(source.tokenizer)
    if "adapter" in config.to:
        require_adapter(source)
    if source.tokenizer.vocab_size != source.config.vocab_size:
        raise ConfigError(
            f"{source.dir}: the tokenizer has {source.tokenizer.vocab_size} tokens and the model "
            f"{source.config.vocab_size}; they do not belong together, copy the tokenizer's files it was trained with"
        )


def _write_hf(job: _Job) -> None:
    if job.config.dtype == "fp16":
        _require_half(job.model, "--dtype fp16", "bf16 or fp32")
    write_hf_folder(job.folder, job.model, job.source.tokenizer, dtype=job.config.dtype)


def _write_gguf(job: _Job) -> None:
    if job.config.gguf_type == "f16":
        _require_half(job.model, "--gguf-type f16", "bf16 or f32")
    write_gguf(
        job.gguf_file,
        job.model.config,
        job.model.state_dict(),
        tokenizer=job.source.tokenizer,
        kind=job.config.gguf_type,
        name=job.source.name,
        fingerprint=job.source.fingerprint,
    )


def _write_adapter(job: _Job) -> None:
    write_adapter(job.source, job.folder / ADAPTER_DIR, config=job.config)


def _require_half(model: Transformer, option: str, others: str) -> None:
    """Raise ConfigError where a weight is beyond what fp16 can hold."""
    largest = max((float(tensor.abs().max()), name) for name, tensor in model.state_dict().items())
    if largest[0] > _LARGEST_HALF:
        raise ConfigError(f"{option}: {largest[1]} has a weight of {largest[0]:.3g}, beyond fp16's 65504; use {others}")


def _checked(job: _Job, tell: Callable[[str], None]) -> list[Check]:
    """What the stock libraries make of the folder. Raises StageError where that is something else."""
    proofs: dict[Format, Callable[[_Job], Check]] = {"hf": _check_hf, "gguf": _check_gguf, "adapter": _check_adapter}
    checks = []
    for kind in job.config.to:
        tell(f"verifying {kind}")
        checks.append(proofs[kind](job))
        require_passed(checks)
    return checks


def _check_hf(job: _Job) -> Check:
    return verify_hf(job.folder, job.model, job.source.tokenizer, config=job.config)


def _check_gguf(job: _Job) -> Check:
    return verify_gguf(job.gguf_file, job.model, job.source.tokenizer, config=job.config)


def _check_adapter(job: _Job) -> Check:
    base = job.source.base
    if base is None:
        raise MissingError(
            f"--verify: the base of the adapter ({job.source.base_fingerprint}) is not in the store any more, so there "
            "is nothing to load it on; leave out --verify, or adapter"
        )
    with tempfile.TemporaryDirectory(prefix="minimind-base-") as name:
        write_hf_folder(Path(name), load_model(base.dir), job.source.tokenizer, dtype="fp32")
        return verify_adapter(job.folder / ADAPTER_DIR, Path(name), job.model, job.source.tokenizer)


def _write_cards(job: _Job, checks: list[Check]) -> None:
    gguf = job.gguf_file.name if "gguf" in job.config.to else None
    card = model_card(job.source, job.config, gguf=gguf, checks=checks)
    runtime.write_atomic(job.folder / CARD_FILE, card)
    if "adapter" in job.config.to:
        own = [check for check in checks if check.format == "adapter"]
        text = adapter_card(job.source, job.config, checks=own)
        runtime.write_atomic(job.folder / ADAPTER_DIR / CARD_FILE, text)


def _record(job: _Job, checks: list[Check]) -> Record:
    source = job.source
    return Record(
        name=source.name,
        fingerprint=source.fingerprint,
        weights_sha256=source.weights_sha256,
        parents=source.parents,
        model=source.config,
        settings=job.config,
        command=export_command(source, job.config),
        checks=checks,
        files=entries(job.folder),
        created_at=runtime.now(),
        libraries=runtime.libraries(),
        code_commit=runtime.git_commit(),
    )
