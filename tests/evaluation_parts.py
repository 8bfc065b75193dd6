"""Models of random weights, evaluated by the real stage and published without a card: what the gate and `diff` read.

A model's weights have `noise` added to them: the more, the worse it predicts any text.
"""

import shutil
from pathlib import Path
from typing import Any

import torch

from minimind.artifact import Artifact, Inputs, Store, Summary
from minimind.config import Config
from minimind.evaluate.config import EvaluateConfig, GateConfig
from minimind.evaluate.results import Figure, Interval
from minimind.evaluate.stage import EVALUATE
from minimind.model.config import ModelConfig
from minimind.model.transformer import Transformer
from minimind.model.weights import save_model
from minimind.stage import Stage, build
from minimind.tokens.tokenizer import Tokenizer

SHAPE = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "ffn_size": 32, "max_positions": 128}
EVALUATION = EvaluateConfig(
    prompts=("Hello?",), answer_tokens=4, max_documents=40, resamples=100, built_in=(), contamination=False
)


class Noisy(Config):
    """How bad a model is."""

    noise: float = 0.0
    seed: int = 0
    length: int = 64


class Publishing(Config):
    """What the real stage's settings have for the gate."""

    model: str
    gate: GateConfig = GateConfig()


def train(config: Noisy, inputs: Inputs, out_dir: Path) -> Summary:
    """A model directory."""
    tokenizer = Tokenizer.load(inputs["tokenizer"].dir)
    model = Transformer(ModelConfig(vocab_size=tokenizer.vocab_size, **SHAPE), seed=config.seed)
    chance = torch.Generator().manual_seed(config.seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += config.noise * torch.randn(parameter.shape, generator=chance)
    save_model(out_dir, model)
    tokenizer.copy_to(out_dir)
    return Summary(figures={"tokenizer": inputs["tokenizer"].fingerprint})


def publish(config: Publishing, inputs: Inputs, out_dir: Path) -> Summary:
    """A published model, with a card of one word."""
    model = inputs[config.model]
    for path in model.dir.iterdir():
        if path.name not in ("manifest.json", "summary.json"):
            shutil.copy(path, out_dir)
    for name, words in {"report.md": "# The card\n", "report.html": "<p>The card</p>", "report.json": "{}"}.items():
        (out_dir / name).write_text(words)
    return Summary(figures={"model": config.model, "model_fingerprint": model.fingerprint})


TRAIN = {
    name: Stage(name, train, inputs=("tokenizer",), optional_inputs=("model",))
    for name in ("pretrain", "sft", "dpo", "lora")
}
PUBLISH = Stage("publish", publish, inputs=("evaluation",), optional_inputs=(*TRAIN,))


class Makers:
    """Models, evaluations and published ones in one store, from a tokenizer and a corpus."""

    def __init__(self, store: Store, tokenizer: Artifact, corpus: Artifact) -> None:
        self.store, self.tokenizer, self.corpus = store, tokenizer, corpus

    def model(self, name: str = "sft", *, noise: float = 0.0, start: Artifact | None = None, seed: int = 0) -> Artifact:
        inputs = {"tokenizer": self.tokenizer, **({"model": start} if start else {})}
        return build(TRAIN[name], Noisy(noise=noise, seed=seed), inputs, store=self.store)[0]

    def evaluation(self, *models: Artifact, config: EvaluateConfig = EVALUATION, **corpora: Artifact) -> Artifact:
        inputs = {"corpus": self.corpus, **corpora, **{model.kind: model for model in models}}
        return build(EVALUATE, config, inputs, store=self.store)[0]

    def published(self, *models: Artifact, evaluation: Artifact | None = None, **gate: Any) -> Artifact:
        """The last of `models`, with their evaluation; `gate` are settings of [gate]."""
        evaluation = evaluation or self.evaluation(*models)
        inputs = {"evaluation": evaluation, **{model.kind: model for model in models}}
        config = Publishing(model=models[-1].kind, gate=GateConfig(**gate))
        return build(PUBLISH, config, inputs, store=self.store)[0]


def figure(value: float, low: float, high: float, n: int = 100) -> Figure:
    return Figure(value=value, interval=Interval(low=low, high=high), n=n)
