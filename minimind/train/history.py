"""A training gone through again: what it was given, out of the manifest of what it made, or of what it is about to.

Batches are a function of settings and inputs (`minimind.train.splits`), and the manifest names both. The settings in
it are those that count, so what only says where and how fast is as it is by default. If the modules that choose rows
have changed since, the batches are not those it had: `Training.changed_code` names them.

Not here: what is done with it (`minimind.tokens.trace`, `microscope_page`, `token_ledger`).
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from pydantic import ValidationError

from minimind.artifact import Artifact, Store
from minimind.config import Config
from minimind.errors import ArtifactError, ConfigError, MiniMindError, MissingError
from minimind.fingerprint import code_digests
from minimind.lineage import parent
from minimind.tokens.trace_pieces import Source
from minimind.tokens.trainings import TRAININGS, Training
from minimind.train.config import TrainConfig
from minimind.train.splits import open_train_split, other_input
from minimind.train.stage_configs import CONFIGS

_DECIDE_ROWS = ("splits", "batches", "shuffle", "packing", "layout", "mixture", "augmentation", "pairs_beside")
"""Modules that say which rows a step has."""


def training_of(artifact: Artifact) -> Training:
    """The training that made a model.

    Raises ConfigError where `artifact` is no trained model, MissingError where a token set of it is gone, and
    ArtifactError where its settings are not understood any more.
    """
    if artifact.kind not in TRAININGS:
        kinds = ", ".join(TRAININGS)
        raise ConfigError(f"{artifact.dir}: made by the stage {artifact.kind}, not by a training ({kinds})")
    manifest = artifact.manifest
    try:
        config = CONFIGS[artifact.kind].model_validate(manifest.parts.config)
    except ValidationError as error:
        first = error.errors()[0]
        raise ArtifactError(
            f"{artifact.dir}: trained by a version with other settings (`{'.'.join(map(str, first['loc']))}`: "
            f"{first['msg']}); train it again to look into it"
        ) from None
    inputs = {name: found for name in manifest.parents if (found := parent(artifact, name))}
    figures = artifact.summary().figures
    changed = _changed(manifest.parts.code)
    return _training(artifact.kind, config, inputs, artifact.fingerprint, figures, changed)


def training_to_come(stage: str, config: Config, inputs: Mapping[str, Artifact], fingerprint: str) -> Training:
    """The same before it has run. Raises what the training itself would say of its rows."""
    assert isinstance(config, TrainConfig), "a training stage has a training's settings"
    training = _training(stage, config, inputs, fingerprint, {}, ())
    return replace(training, steps=config.total_steps(training.open().steps_per_epoch))


def trainings(store: Store) -> list[Training]:
    """Every training of a store that can be gone through again, the oldest first."""
    found = [artifact for artifact in store.all() if artifact.kind in TRAININGS]
    made = []
    for artifact in sorted(found, key=lambda artifact: artifact.manifest.created_at):
        try:
            made.append(training_of(artifact))
        except MiniMindError:  # of another version, or without its data: it cannot tell anything
            continue
    return made


def _training(
    stage: str,
    config: TrainConfig,
    inputs: Mapping[str, Artifact],
    fingerprint: str,
    figures: Mapping[str, Any],
    changed: tuple[str, ...],
) -> Training:
    names = ["tokens", *map(other_input, config.other_rows)]
    if missing := [name for name in names if name not in inputs]:
        raise MissingError(f"{stage} {fingerprint}: its input `{missing[0]}` is not in the store; make it again")
    tokenizer = parent(inputs["tokens"], "tokenizer")
    if tokenizer is None:
        raise MissingError(f"{inputs['tokens'].dir}: its tokenizer is not in the store; run the stage tokenizer again")
    return Training(
        label=stage,
        fingerprint=fingerprint,
        token_sets=tuple(inputs[name] for name in names),
        length=config.length,
        batch_items=config.batch_items,
        seed=config.seed,
        figures=figures,
        steps=int(figures.get("steps") or 0),
        open=partial(_open, stage, config, {name: inputs[name] for name in names}, tokenizer),
        changed_code=changed,
    )


def _open(stage: Any, config: TrainConfig, inputs: Mapping[str, Artifact], tokenizer: Artifact) -> Source:
    directories = {name: artifact.dir for name, artifact in inputs.items()}
    return open_train_split(stage, config, directories, tokenizer.dir).batches


def _changed(known: Mapping[str, str]) -> tuple[str, ...]:
    """The modules that choose rows whose code is not that of then."""
    now = code_digests([open_train_split.__module__])
    decides = [name for name in now if name.rpartition(".")[2] in _DECIDE_ROWS]
    return tuple(name for name in decides if known.get(name) != now[name])
