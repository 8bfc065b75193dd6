"""The stage `evaluate`: every model that was trained on the same material, beside chance and counting baselines.

    evaluation.json   figures with intervals (`minimind.evaluate.results.Evaluation`)
    items.parquet     what every model got for every item (`table`)
    answers.jsonl     the answers that were checked, word for word

Material is what the corpora hold out, the prompts that come with the project, and the files and sets that the recipe
names (`gathering`). Models are loaded one at a time. The scores of a model are a function of its weights and the
material; nothing is sampled.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from minimind import runtime
from minimind.artifact import Artifact, Inputs, Summary
from minimind.errors import ConfigError
from minimind.evaluate.answers import answer_prompts
from minimind.evaluate.config import CORPORA, MODEL_NAMES, EvaluateConfig
from minimind.evaluate.contamination import Overlap, overlaps_of_each, trainings_behind, worst
from minimind.evaluate.findings import findings
from minimind.evaluate.gathering import TrainingData, all_material, digests
from minimind.evaluate.intervals import Resampling
from minimind.evaluate.material import Material, Subject
from minimind.evaluate.measuring import Scores, leaks_of, measure, result_of, said_of, task_of
from minimind.evaluate.preference import reward_score
from minimind.evaluate.results import EVALUATION_FILE, Evaluation, ModelResult, RewardScore, figures
from minimind.evaluate.table import ANSWERS_FILE, ITEMS_FILE, write_answers, write_items
from minimind.events import EVENTS_FILE, EventWriter
from minimind.lineage import ancestors
from minimind.model.config import count_parameters
from minimind.stage import Stage
from minimind.train.stage_configs import DpoConfig

DEFAULT_CONTEXT = 512
"""For a pretrained model whose manifest does not say the length it was trained with."""

Advance = Callable[[str], None]
Seen = Mapping[str, Sequence[Overlap]]
"""Task → what a model's trainings saw of each of its items."""


def evaluate(config: EvaluateConfig, inputs: Inputs, out_dir: Path) -> Summary:
    """Measure every model among `inputs`; a figure per model, task and metric."""
    names = [name for name in MODEL_NAMES if name in inputs]
    if not names:
        raise ConfigError(f"evaluate was given no model; give one or more of {', '.join(MODEL_NAMES)}")
    corpora = {name: inputs[name] for name in CORPORA if name in inputs}
    materials = all_material(config, corpora)
    resampling = Resampling(config.resamples, config.seed)
    with EventWriter(out_dir / EVENTS_FILE) as events:
        advance = _counter(events, rounds=2 + len(names) * (len(materials) + 1))
        training = TrainingData(config, corpora)
        tasks = {material.name: task_of(material, training.ngrams, resampling) for material in materials}
        baselines = training.baselines(materials)
        advance("baselines")
        seen = look_for_items(config, {name: inputs[name] for name in names}, materials)
        advance("contamination")
        found = {
            name: examine(
                inputs[name].dir,
                config.replace(context=config.context or trained_length(inputs[names[0]])),
                materials,
                fingerprint=inputs[name].fingerprint,
                chats=name != "pretrain",
                seen=seen[name],
                advance=advance,
            )
            for name in names
        }
    scores = {name: one.scores for name, one in found.items()}
    models = {name: one.result.replace(reward=_reward(name, inputs, scores, resampling)) for name, one in found.items()}
    evaluation = Evaluation(tasks=tasks, models=models, baselines=baselines)
    runtime.write_json(out_dir / EVALUATION_FILE, evaluation.model_dump(mode="json"))
    write_items(out_dir / ITEMS_FILE, materials, scores, {name: one.overlaps for name, one in seen.items()})
    write_answers(out_dir / ANSWERS_FILE, scores)
    samples = [f"{names[-1]}: {answer.prompt} → {answer.text}" for answer in models[names[-1]].answers]
    return Summary(figures=figures(evaluation), samples=samples, warnings=findings(evaluation))


EVALUATE = Stage(
    "evaluate",
    evaluate,
    optional_inputs=(*CORPORA, *MODEL_NAMES),
    format_version=2,
    sources=digests,
)


@dataclass(frozen=True)
class Examined:
    """What was found of one model."""

    result: ModelResult
    scores: Scores


@dataclass(frozen=True)
class Looked:
    """What a model's trainings saw of the items, and the trainings that could not be looked into, with reasons."""

    overlaps: Seen
    unchecked: tuple[str, ...] = ()


def examine(
    directory: Path,
    config: EvaluateConfig,
    materials: Sequence[Material],
    *,
    fingerprint: str,
    chats: bool,
    seen: Looked,
    advance: Advance = lambda name: None,
) -> Examined:
    """One model on all material, its answers to the fixed prompts, and which items it had seen."""
    resampling = Resampling(config.resamples, config.seed)
    subject = Subject.load(
        directory,
        context=config.context,
        chats=chats,
        device=config.device,
        precision=config.precision,
        batch_tokens=config.batch_tokens,
    )
    scores = measure(subject, materials, advance=advance)
    answers = answer_prompts(subject.engine, config.prompts, max_tokens=config.answer_tokens, chat=chats)
    advance("prompts")
    result = ModelResult(
        fingerprint=fingerprint,
        parameters=count_parameters(subject.model.config),
        context=subject.context,
        tasks={
            one.name: result_of(one, scores.tasks[one.name], resampling, seen.overlaps.get(one.name))
            for one in materials
        },
        answers=answers,
        said=said_of(answers, chain.from_iterable(scores.outcomes.values()), resampling),
        leaks=[leak for one in materials for leak in leaks_of(one, seen.overlaps.get(one.name))],
        unchecked=list(seen.unchecked),
        seconds=round(scores.seconds, 1),
    )
    return Examined(result, scores)


def look_for_items(
    config: EvaluateConfig, models: Mapping[str, Artifact], materials: Sequence[Material]
) -> dict[str, Looked]:
    """Model → what its trainings saw of the items. A training that several models share is looked through once."""
    if not config.contamination:
        return {name: Looked({}, ("not looked for: [evaluate] contamination is off",)) for name in models}
    behind = {name: trainings_behind(artifact) for name, artifact in models.items()}
    asked = {material.name: material.questions() for material in materials}
    questions = list(chain.from_iterable(asked.values()))
    trainings = [training for known, _ in behind.values() for training in known]
    each = overlaps_of_each(questions, trainings, leak_share=config.leak_share)
    looked = {}
    for name, (known, missing) in behind.items():
        overlaps: dict[str, Sequence[Overlap]] = {}
        if known:
            flat, start = worst([each[training.fingerprint] for training in known]), 0
            for task, own in asked.items():
                if own:
                    overlaps[task] = flat[start : start + len(own)]
                start += len(own)
        looked[name] = Looked(overlaps, tuple(missing))
    return looked


def trained_length(model: Artifact | None) -> int:
    """The length of the pretraining that a model comes from."""
    behind = ancestors(model).values() if model else ()
    lengths = [one.manifest.parts.config.get("length") for one in behind if one.kind == "pretrain"]
    return next((int(length) for length in lengths if length), DEFAULT_CONTEXT)


def _counter(events: EventWriter, *, rounds: int) -> Advance:
    done = 0

    def advance(_: str) -> None:
        nonlocal done
        done += 1
        events.progress(done, rounds, "tasks of all models")

    return advance


def _reward(name: str, inputs: Inputs, scores: Mapping[str, Scores], resampling: Resampling) -> RewardScore | None:
    """The implicit reward of dpo over the model it was trained from, where that one is here too."""
    if name != "dpo" or "preference" not in scores[name].tasks:
        return None
    start = inputs[name].manifest.parents.get("model")
    reference = next((other for other in scores if inputs[other].fingerprint == start), None)
    if reference is None:
        return None
    policy, before = (scores[one].tasks["preference"] for one in (name, reference))
    config = DpoConfig.model_construct(**inputs[name].manifest.parts.config)  # of any version: not checked anew
    return reward_score(policy, before, name=reference, per_token=config.compares_per_token, resampling=resampling)
