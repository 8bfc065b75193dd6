"""Model directories for the tests of exports and imports: shapes of every preset at a small width, lively weights."""

from pathlib import Path

import torch

from minimind.artifact import Artifact, Inputs, Store, Summary
from minimind.config import Config
from minimind.model.config import PRESETS, ModelConfig
from minimind.model.lora import apply_lora, lora_state, merge_lora, save_adapter
from minimind.model.transformer import Transformer
from minimind.model.weights import load_model, save_model
from minimind.stage import Stage, build
from minimind.tokens.tokenizer import Tokenizer

NARROW = {
    name: preset.replace(
        vocab_size=600,
        hidden_size=preset.num_heads * (12 if preset.head_size % 3 == 0 else 8),
        head_size=12 if preset.head_size % 3 == 0 else 8,
        num_layers=2,
        ffn_size=64,
        max_positions=4096,
    )
    for name, preset in PRESETS.items()
}
"""Every preset's settings at a small width, for the session's tokenizer."""
SHAPES = NARROW | {
    "yarn": NARROW["minimind-3"].replace(yarn=True, max_positions=32768),
    "yarn without qk-norm": NARROW["minimind2"].replace(yarn=True, max_positions=32768),
    "untied": NARROW["minimind2-small"].replace(tie_embeddings=False),
    "experts without qk-norm": NARROW["minimind2-moe"].replace(num_shared_experts=0),
    "two shared experts": NARROW["minimind2-moe"].replace(num_shared_experts=2),
}
DENSE = NARROW["minimind-nano"]


def lively(config: ModelConfig, *, seed: int = 0) -> Transformer:
    """A model whose weights are large enough, and norms uneven enough, that a wrong formula shows in the logits."""
    model = Transformer(config, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.empty(parameter.shape).normal_(generator=generator)
            parameter.copy_(1 + 0.3 * noise if parameter.ndim == 1 else 1.5 * noise / parameter.shape[-1] ** 0.5)
    return model.eval()


def model_directory(directory: Path, config: ModelConfig, tokenizer: Tokenizer, *, seed: int = 0) -> Path:
    """A model directory with lively weights and the tokenizer's files."""
    directory.mkdir(parents=True, exist_ok=True)
    save_model(directory, lively(config, seed=seed))
    tokenizer.copy_to(directory)
    return directory


def some_tokens(count: int, *, vocab_size: int = 600) -> torch.Tensor:
    """Token ids, none of them special."""
    return torch.randint(20, vocab_size, (1, count), generator=torch.Generator().manual_seed(1))


class ShapeConfig(Config):
    """A model of a shape, untrained."""

    model: ModelConfig
    seed: int = 0


class AdapterConfig(Config):
    """An adapter of these targets."""

    targets: tuple[str, ...] = ("q_proj", "self_attn.v_proj")


def pretrain(config: ShapeConfig, inputs: Inputs, out_dir: Path) -> Summary:
    model_directory(out_dir, config.model, Tokenizer.load(inputs["tokenizer"].dir), seed=config.seed)
    return Summary(figures={"validation_loss": 3.25, "tokens": 12345, "steps": 7})


def lora(config: AdapterConfig, inputs: Inputs, out_dir: Path) -> Summary:
    """What the stage leaves: the merged model, and the adapter beside it."""
    model = load_model(inputs["model"].dir)
    apply_lora(model, rank=4, alpha=6, targets=config.targets)
    with torch.no_grad():
        for name, matrix in lora_state(model).items():
            matrix.copy_(torch.randn(matrix.shape, generator=torch.Generator().manual_seed(len(name))) / 4)
    save_adapter(out_dir / "adapter", model, targets=config.targets, base=inputs["model"].fingerprint)
    merge_lora(model)
    save_model(out_dir, model)
    Tokenizer.load(inputs["model"].dir).copy_to(out_dir)
    return Summary(figures={"validation_loss": 3.0})


PRETRAIN = Stage("pretrain", pretrain, inputs=("tokenizer",))
LORA = Stage("lora", lora, inputs=("model",))


def sealed_model(config: ModelConfig, tokenizer: Artifact, store: Store, *, seed: int = 0) -> Artifact:
    """An artifact of the store with a lively model."""
    return build(PRETRAIN, ShapeConfig(model=config, seed=seed), {"tokenizer": tokenizer}, store=store)[0]


def sealed_adapter(base: Artifact, store: Store, *, targets: tuple[str, ...] = ("q_proj", "v_proj")) -> Artifact:
    """An artifact as the stage lora leaves it."""
    return build(LORA, AdapterConfig(targets=targets), {"model": base}, store=store)[0]
