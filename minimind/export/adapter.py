"""The adapter of a model trained with LoRA, as a folder that peft loads on the exported base model.

Its two files are peft's already (`minimind.model.lora`). What is added: the name of the base, which our own files give
by fingerprint. Refused are adapters on matrices that transformers keeps stacked: those of experts.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors import safe_open

from minimind.errors import ConfigError, MissingError
from minimind.export.settings import ExportConfig
from minimind.export.source import Source
from minimind.model.lora import ADAPTER_CONFIG_FILE, ADAPTER_FILE
from minimind.runtime import write_json

ADAPTER_DIR = "adapter"


def require_adapter(source: Source) -> None:
    """Raise MissingError or ConfigError where the model has no adapter that peft could load."""
    path = source.dir / ADAPTER_DIR / ADAPTER_FILE
    if not path.is_file():
        raise MissingError(
            f"--to adapter: {source.name} has none (no {ADAPTER_DIR}/{ADAPTER_FILE}); the stage lora, and a training "
            "with a table `lora`, writes one"
        )
    if not source.config.num_experts:
        return
    with safe_open(path, framework="pt") as file:
        stacked = next((name for name in file.keys() if ".mlp." in name), None)  # noqa: SIM118
    if stacked:
        raise ConfigError(
            f"--to adapter: {stacked} adapts experts, whose matrices transformers keeps stacked, so peft cannot load "
            "it; export the merged model with --to hf"
        )


def read_adapter_settings(source: Source) -> dict[str, Any]:
    """The adapter_config.json in the source."""
    return json.loads((source.dir / ADAPTER_DIR / ADAPTER_CONFIG_FILE).read_text(encoding="utf-8"))


def write_adapter(source: Source, folder: Path, *, config: ExportConfig) -> None:
    """Write peft's two files into `folder`, which is made."""
    folder.mkdir()
    shutil.copyfile(source.dir / ADAPTER_DIR / ADAPTER_FILE, folder / ADAPTER_FILE)
    settings = read_adapter_settings(source)
    if config.base is not None:
        settings["base_model_name_or_path"] = config.base
    write_json(folder / ADAPTER_CONFIG_FILE, settings)
