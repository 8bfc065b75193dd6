"""A tiny model that makes clear choices, as an engine and as an artifact, and greedy decoding by the definition."""

import shutil
from pathlib import Path

import torch

from minimind.artifact import Inputs, Summary
from minimind.config import Config
from minimind.infer.engine import Engine
from minimind.infer.network import Network
from minimind.model.config import ModelConfig
from minimind.model.transformer import Transformer
from minimind.tokens.tokenizer import END_OF_TEXT, Tokenizer

PROMPT = [END_OF_TEXT, 20, 31, 40, 31]


def tiny_model(vocab_size: int, **changes: int) -> Transformer:
    config = ModelConfig(
        vocab_size=vocab_size, hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2, head_size=8, ffn_size=64,
        **{"max_positions": 256, **changes},
    )  # fmt: skip
    model = Transformer(config, seed=0).eval()
    with torch.no_grad():  # fresh weights give nearly equal scores; larger ones make the choices clear
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(8)
    return model


def engine_of(model: Transformer, tokenizer: Tokenizer, *, precision: str = "fp32", **options: int) -> Engine:
    return Engine(Network(model, precision), tokenizer, **{"max_batch": 4, **options})


def recomputed(model: Transformer, prompt_ids: list[int], count: int, *, banned: tuple[int, ...] = ()) -> list[int]:
    """Greedy tokens by the definition: the whole text through the model for every token, nothing kept."""
    ids = list(prompt_ids)
    with torch.inference_mode():
        for _ in range(count):
            scores_V = model(torch.tensor([ids]))[0, -1]
            scores_V[list(banned)] = float("-inf")
            ids.append(int(scores_V.argmax()))
    return ids[len(prompt_ids) :]


class GivenModel(Config):
    """A model directory, as a training leaves it."""

    path: str


def given_model(config: GivenModel, _: Inputs, out_dir: Path) -> Summary:
    """The payload of a stage that made this model."""
    for path in Path(config.path).iterdir():
        if path.suffix in (".safetensors", ".json", ".model"):
            shutil.copy(path, out_dir)
    return Summary()
