"""The stage `evaluate`: every model that was trained, and the baselines, on the same validation text and pairs.

Writes `evaluation.json` (`minimind.evaluate.results.Evaluation`). Models are loaded one at a time.
The scores of a model are a function of its weights and the token sets; nothing is sampled.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minimind import runtime
from minimind.artifact import Artifact, Inputs, Summary
from minimind.data.shards import read_batches
from minimind.errors import ConfigError, DataError
from minimind.evaluate.answers import answer_prompts
from minimind.evaluate.baseline import fit_ngram, xz_bits_per_byte
from minimind.evaluate.config import MODEL_NAMES, EvaluateConfig
from minimind.evaluate.findings import findings
from minimind.evaluate.perplexity import bits_per_byte, bootstrap_ratio
from minimind.evaluate.preference import (
    PairLogProbs,
    pair_log_probs,
    preference_score,
    reward_score,
    usable_pairs,
)
from minimind.evaluate.results import EVALUATION_FILE, Baselines, Evaluation, ModelResult, RewardScore
from minimind.evaluate.scoring import choose
from minimind.events import EVENTS_FILE, EventWriter
from minimind.infer.engine import Engine
from minimind.infer.generate import load_pair
from minimind.infer.network import Network
from minimind.model.config import count_parameters
from minimind.model.weights import load_config
from minimind.stage import Stage
from minimind.tokens.token_set import TokenSet

DEFAULT_CONTEXT = 512
"""For a pretrained model whose manifest does not say the length it was trained with."""

CPU_BATCH, GPU_BATCH = 2048, 32768
"""Tokens scored at a time. On a CPU 8192 took 1.7 times as long: activations leave the cache."""


@dataclass(frozen=True)
class Material:
    """What all models are scored on."""

    text: TokenSet
    documents: np.ndarray
    context: int
    preferences: TokenSet | None
    pairs: np.ndarray
    skipped_pairs: int


def evaluate(config: EvaluateConfig, inputs: Inputs, out_dir: Path) -> Summary:
    """Measure every model among `inputs`; a figure per model and measure."""
    names = [name for name in MODEL_NAMES if name in inputs]
    if not names:
        raise ConfigError(f"evaluate was given no model; give one or more of {', '.join(MODEL_NAMES)}")
    material = _material(config, inputs, names)
    models: dict[str, ModelResult] = {}
    pairs: dict[str, PairLogProbs] = {}
    with EventWriter(out_dir / EVENTS_FILE) as events:
        baselines = _baselines(config, inputs, material)
        events.progress(1, len(names) + 1, "models and baselines")
        for done, name in enumerate(names, 2):
            models[name], scored = _measure(config, name, inputs[name], material)
            if scored is not None:
                pairs[name] = scored
            events.progress(done, len(names) + 1, "models and baselines")
    models = {name: model.replace(reward=_reward(name, inputs, pairs)) for name, model in models.items()}
    evaluation = Evaluation(models=models, baselines=baselines, validation_documents=material.text.num_documents)
    runtime.write_json(out_dir / EVALUATION_FILE, evaluation.model_dump(mode="json"))
    samples = [f"{names[-1]}: {answer.prompt} → {answer.text}" for answer in models[names[-1]].answers]
    return Summary(figures=figures(evaluation), samples=samples, warnings=findings(evaluation))


EVALUATE = Stage(
    "evaluate",
    evaluate,
    inputs=("tokens", "corpus"),
    optional_inputs=(*MODEL_NAMES, "preferences"),
)


def figures(evaluation: Evaluation) -> dict[str, int | float | str | None]:
    """The evaluation as flat names: `sft_bits_per_byte`, `sft_preference_accuracy_low`, …"""
    baselines = evaluation.baselines
    flat: dict[str, int | float | str | None] = {}
    for name, result in evaluation.models.items():
        flat |= {
            f"{name}_bits_per_byte": result.score.bits_per_byte,
            f"{name}_bits_per_byte_low": result.score.interval.low,
            f"{name}_bits_per_byte_high": result.score.interval.high,
        }
        if result.preference is not None:
            flat |= {
                f"{name}_preference_accuracy": result.preference.accuracy,
                f"{name}_preference_accuracy_low": result.preference.interval.low,
                f"{name}_preference_accuracy_high": result.preference.interval.high,
                f"{name}_preference_accuracy_per_token": result.preference.normalised_accuracy,
                f"{name}_preference_margin": result.preference.margin,
                "preference_pairs": result.preference.pairs,
            }
        if result.reward is not None:
            flat |= {f"{name}_reward_accuracy": result.reward.accuracy, f"{name}_reward_margin": result.reward.margin}
        if result.answers:
            flat |= {f"{name}_repetition": result.repetition, f"{name}_ended_by_stop": result.ended_by_stop}
    flat |= {
        f"byte_{baselines.ngram_order}gram_bits_per_byte": baselines.ngram,
        "xz_bits_per_byte": baselines.xz,
        "xz_after_train_bits_per_byte": baselines.xz_after_train,
        "validation_documents": next(iter(evaluation.models.values())).score.documents,
        "validation_bytes": baselines.bytes,
    }
    return {name: round(value, 5) if isinstance(value, float) else value for name, value in flat.items()}


def _material(config: EvaluateConfig, inputs: Inputs, names: Sequence[str]) -> Material:
    text = TokenSet.open(inputs["tokens"].dir / "val")
    if not text.num_documents:
        raise DataError("evaluate: the validation split has no documents; raise `validation_fraction` of the data spec")
    trained_length = inputs["pretrain"].manifest.parts.config.get("length") if "pretrain" in inputs else None
    preferences, pairs, skipped = None, np.zeros(0, np.int64), 0
    if "preferences" in inputs:
        preferences = TokenSet.open(inputs["preferences"].dir / "val")
        longest = min([config.max_pair_tokens, *(load_config(inputs[name].dir).max_positions for name in names)])
        usable = usable_pairs(preferences, max_tokens=longest)
        pairs = usable[choose(len(usable), limit=config.max_pairs, seed=config.seed)]
        skipped = preferences.num_documents // 2 - len(usable)
    return Material(
        text=text,
        documents=choose(text.num_documents, limit=config.max_documents, seed=config.seed),
        context=config.context or trained_length or DEFAULT_CONTEXT,
        preferences=preferences,
        pairs=pairs,
        skipped_pairs=skipped,
    )


def _measure(
    config: EvaluateConfig, name: str, artifact: Artifact, material: Material
) -> tuple[ModelResult, PairLogProbs | None]:
    device = runtime.choose_device(config.device)
    dtype = runtime.choose_precision(config.precision, device)
    model, tokenizer = load_pair(artifact.dir, config.device, dtype=dtype)
    batch_tokens = config.batch_tokens or (CPU_BATCH if device.type == "cpu" else GPU_BATCH)
    score = bits_per_byte(
        model,
        material.text,
        documents=material.documents.tolist(),
        context=material.context,
        batch_tokens=batch_tokens,
        resamples=config.resamples,
        seed=config.seed,
    )
    pairs = None
    if material.preferences is not None and len(material.pairs):
        pairs = pair_log_probs(model, material.preferences, pairs=material.pairs.tolist(), batch_tokens=batch_tokens)
    engine = Engine(Network(model, config.precision), tokenizer, max_batch=max(1, len(config.prompts)))
    result = ModelResult(
        fingerprint=artifact.fingerprint,
        parameters=count_parameters(model.config),
        score=score,
        preference=None if pairs is None else preference_score(pairs, skipped=material.skipped_pairs),
        answers=answer_prompts(engine, config.prompts, max_tokens=config.answer_tokens, chat=name != "pretrain"),
    )
    return result, pairs


def _reward(name: str, inputs: Inputs, pairs: Mapping[str, PairLogProbs]) -> RewardScore | None:
    """The implicit reward of dpo over the model it was trained from, where that one is here too."""
    if name != "dpo" or name not in pairs:
        return None
    start = inputs[name].manifest.parents.get("model")
    reference = next((other for other in pairs if inputs[other].fingerprint == start), None)
    if reference is None:
        return None
    return reward_score(pairs[name], pairs[reference], name=reference)


def _baselines(config: EvaluateConfig, inputs: Inputs, material: Material) -> Baselines:
    """Both baselines, on the text of exactly the documents that the models are scored on."""
    corpus = inputs["corpus"].dir
    train_bytes = int(np.asarray(TokenSet.open(inputs["tokens"].dir / "train").bytes).sum())
    train = _texts(corpus / "train", every=max(1, -(-train_bytes // config.baseline_bytes)))
    wanted = np.asarray(material.text.rows)[material.documents]
    validation = _texts(corpus / "val", rows=set(wanted.tolist()))
    sizes = np.array([len(text) for text in validation])
    expected = np.asarray(material.text.bytes)[material.documents]
    if int(sizes.sum()) != int(expected.sum()):
        raise DataError(
            f"evaluate: the chosen validation rows of the corpus have {int(sizes.sum())} bytes, the token set says "
            f"{int(expected.sum())}; give the corpus that the tokens were made from"
        )
    bits = fit_ngram(train, order=config.baseline_order).bits(validation)
    alone, after = xz_bits_per_byte(train, validation)
    return Baselines(
        ngram_order=config.baseline_order,
        ngram=float(bits.sum() / sizes.sum()),
        ngram_interval=bootstrap_ratio(bits, sizes, resamples=config.resamples, seed=config.seed),
        xz=alone,
        xz_after_train=after,
        train_bytes=sum(len(text) for text in train),
        bytes=int(sizes.sum()),
    )


def _texts(directory: Path, *, rows: set[int] | None = None, every: int = 1) -> list[bytes]:
    """The texts of a split as UTF-8: those whose row number is in `rows`, or every so-manyth one."""
    found: list[bytes] = []
    row = 0
    for batch in read_batches(directory, ["text"]):
        for text in batch.column("text"):
            if row % every == 0 if rows is None else row in rows:
                found.append(text.as_py().encode("utf-8"))
            row += 1
    return found
