"""Trained models without the training: the artifact a stage would seal, its figures counted from its batches.

What a training was given follows from its manifest alone, so the tests of tracing need no weights.
"""

from pathlib import Path
from typing import Any

from minimind.artifact import Artifact, Inputs, Store, Summary
from minimind.stage import Stage, build
from minimind.tokens.layout import IGNORE
from minimind.train.config import TrainConfig
from minimind.train.splits import open_train_split

OPTIONAL = ("model", "tokenizer", "tokens_pretrain", "tokens_chat")


def seal_training(store: Store, stage: Any, config: TrainConfig, inputs: Inputs, **figures: Any) -> Artifact:
    """The artifact of a training that took the steps its settings say; `figures` replace those it counted."""

    def train(config: TrainConfig, inputs: Inputs, out_dir: Path) -> Summary:
        directories = {name: artifact.dir for name, artifact in inputs.items()}
        tokenizer = store.find("tokenizer", inputs["tokens"].manifest.parents["tokenizer"])
        split = open_train_split(stage, config, directories, tokenizer.dir)
        steps = config.total_steps(split.steps_per_epoch)
        batches = [split.batches.batch(step) for step in range(steps)]
        counted = {
            "steps": steps,
            "tokens": sum(int((batch.documents_BT >= 0).sum()) for batch in batches),
            "trained_tokens": sum(int((batch.labels_BT != IGNORE).sum()) for batch in batches),
        }
        (out_dir / "model.safetensors").touch()
        return Summary(figures={**counted, **figures})

    made = Stage(
        stage,
        train,
        inputs=("tokens",),
        optional_inputs=OPTIONAL,
        launches=("minimind.train.splits",),
        sources=lambda _: {name: str(value) for name, value in figures.items()},
    )
    return build(made, config, inputs, store=store)[0]
