"""One model measured by itself, outside a pipeline: what `minimind eval` does.

What it is measured on are the tasks that are asked for by name (held-out rows of the corpora it comes from, or else of
the newest in its store; the project's own prompts; sets of the hub) and files. Where the model is no artifact of a
store nobody knows what it was trained on, and the figures say so. Not here: several models side by side (`stage`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from minimind.artifact import MANIFEST_FILE, Artifact, open_artifact
from minimind.config import nearest
from minimind.errors import ConfigError
from minimind.evaluate.config import BUILT_IN, CORPORA, HELD_OUT, EvaluateConfig
from minimind.evaluate.gathering import TrainingData, all_material, digests
from minimind.evaluate.hub_suites import SUITES
from minimind.evaluate.intervals import Resampling
from minimind.evaluate.material import Material
from minimind.evaluate.measuring import Scores, task_of
from minimind.evaluate.results import EVALUATION_FILE, Evaluation
from minimind.evaluate.stage import Looked, examine, look_for_items, trained_length
from minimind.evaluate.table import ANSWERS_FILE, ITEMS_FILE, write_answers, write_items
from minimind.lineage import ancestors, by_age, store_of
from minimind.runtime import write_json

_UNKNOWN = "it is no artifact of this store, so nobody knows what it was trained on"


@dataclass(frozen=True)
class Examination:
    """One model's evaluation, and what it got for every item."""

    name: str
    evaluation: Evaluation
    materials: Sequence[Material]
    scores: Scores
    looked: Looked

    def write(self, directory: Path) -> None:
        """The same files as the stage writes."""
        directory.mkdir(parents=True, exist_ok=True)
        write_json(directory / EVALUATION_FILE, self.evaluation.model_dump(mode="json"))
        write_items(directory / ITEMS_FILE, self.materials, {self.name: self.scores}, {self.name: self.looked.overlaps})
        write_answers(directory / ANSWERS_FILE, {self.name: self.scores})


def examine_alone(
    directory: Path,
    config: EvaluateConfig,
    suites: Sequence[str] = (),
    *,
    raw: bool | None = None,
    start: Callable[[int], None] = lambda rounds: None,
    advance: Callable[[str], None] = lambda name: None,
) -> Examination:
    """Measure the model in `directory` on the `suites` and the files of `config`; without either on all it has.

    `raw` continues prompts as texts; by default that is done with a pretrained model. `start` is told how many tasks
    there are, `advance` each that is done.
    """
    artifact = open_artifact(directory) if (directory / MANIFEST_FILE).is_file() else None
    corpora = _corpora(artifact) if artifact else {}
    wanted = set(HELD_OUT).intersection(suites) if suites or config.has_files else set(HELD_OUT)
    config = _with_suites(config, suites)
    digests(config)  # tells of a file that is not there before anything is read
    used = {name: corpus for name, corpus in corpora.items() if CORPORA[name][1] in wanted}
    if missing := set(HELD_OUT).intersection(suites) - {CORPORA[name][1] for name in used}:
        raise ConfigError(
            f"no held-out rows for {', '.join(sorted(missing))}: {directory} is in no store with such a corpus; give a "
            "file with --text, --chats or --pairs"
        )
    materials = all_material(config, used)
    start(len(materials) + 1)
    resampling = Resampling(config.resamples, config.seed)
    training = TrainingData(config, corpora)
    looked = look_for_items(config, {"": artifact}, materials)[""] if artifact else Looked({}, (_UNKNOWN,))
    found = examine(
        directory,
        config.replace(context=config.context or trained_length(artifact)),
        materials,
        fingerprint=artifact.fingerprint if artifact else "",
        chats=not (_is_pretrained(artifact) if raw is None else raw),
        seen=looked,
        advance=advance,
    )
    name = artifact.kind if artifact else directory.name
    tasks = {material.name: task_of(material, training.ngrams, resampling) for material in materials}
    compared = any(task.ngram for task in tasks.values())
    evaluation = Evaluation(
        tasks=tasks,
        models={name: found.result},
        baselines=training.baselines() if compared else None,  # without xz, which takes longer than the model
    )
    return Examination(name, evaluation, materials, found.scores, looked)


def _with_suites(config: EvaluateConfig, suites: Sequence[str]) -> EvaluateConfig:
    """The settings with the sets of these names, and without the project's own prompts that are not among them."""
    known = (*HELD_OUT, *BUILT_IN, *SUITES)
    if unknown := [name for name in suites if name not in known]:
        raise ConfigError(f"no suite `{unknown[0]}`{nearest(unknown[0], known)}; a file is given with --choices")
    own = tuple(name for name in BUILT_IN if name in suites) if suites or config.has_files else config.built_in
    return config.replace(built_in=own, choices=(*config.choices, *(name for name in suites if name in SUITES)))


def _corpora(artifact: Artifact) -> dict[str, Artifact]:
    """The corpora a model comes from, by the names of the stage's inputs; of kinds that it never read the newest."""
    inputs = {rows: name for name, (rows, _) in CORPORA.items()}
    known = [*by_age(store_of(artifact).all()), *by_age(ancestors(artifact).values())]
    rows = [(str(one.manifest.parts.config.get("rows")), one) for one in known if one.kind == "shard"]
    return {inputs[kind]: one for kind, one in rows if kind in inputs}


def _is_pretrained(artifact: Artifact | None) -> bool:
    if artifact is None:
        return False
    chosen = artifact.summary().figures.get("model") if artifact.kind == "publish" else artifact.kind
    return chosen == "pretrain"
