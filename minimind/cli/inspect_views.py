"""Which view `minimind data show` is asked for: the batches of a training, of a recipe, or as given."""

from minimind.artifact import Artifact
from minimind.config import Config, nearest
from minimind.errors import ConfigError
from minimind.lineage import store_of
from minimind.tokens.microscope import Slide, View, view_document, view_item, view_step
from minimind.tokens.token_set import TokenSet
from minimind.tokens.trace_pieces import Source
from minimind.tokens.trainings import TRAININGS, Training, open_batches
from minimind.train.config import TrainConfig
from minimind.train.history import training_of, trainings


class Batching(Config):
    """What was asked for; None where it is to be found out."""

    split: str = "train"
    recipe: str | None = None
    stage: str | None = None
    length: int | None = None
    batch_tokens: int | None = None
    seed: int | None = None

    @property
    def is_given(self) -> bool:
        return any((self.recipe, self.stage, self.length, self.batch_tokens)) or self.seed is not None


def view_of(
    artifact: Artifact,
    asked: Batching,
    *,
    step: int | None,
    row: int | None,
    document: int | None,
    rows: int,
) -> tuple[View, str]:
    """The view and what it is of. Raises ConfigError where the options contradict each other."""
    if sum(value is not None for value in (step, row, document)) > 1:
        raise ConfigError("give one of --step, --row and --document")
    if artifact.kind in TRAININGS:
        return _of_training(training_of(artifact), asked, step=step, row=row, document=document, rows=rows)
    title = f"{artifact.label}, {asked.split}"
    slide = Slide.of(artifact, asked.split)
    facts = {"token set": f"{artifact.label} {artifact.fingerprint}", "split": asked.split}
    if document is not None:
        return view_document(slide, document, facts=facts), title
    tokens = TokenSet.open(artifact.dir / asked.split)
    batches, how = _batches(artifact, tokens, asked)
    facts |= how
    if row is not None:
        return view_item(slide, batches, row, facts=facts), title
    return view_step([slide], batches, 1 if step is None else step, max_rows=rows, facts=facts), title


def _of_training(
    training: Training, asked: Batching, *, step: int | None, row: int | None, document: int | None, rows: int
) -> tuple[View, str]:
    if asked.is_given or asked.split != "train":
        raise ConfigError(
            f"{training.label} was trained with a length, batch, seed and split of its own; to look with others, "
            f"name the token set: minimind data show {training.tokens.label} …"
        )
    facts = {training.label: training.fingerprint, **training.facts()}
    if changed := training.changed_code:
        facts["not what it was given"] = f"the code that chooses rows changed since ({', '.join(changed)})"
    slides = [Slide.of(artifact, "train") for artifact in training.token_sets]
    if document is not None:
        return view_document(slides[0], document, facts=facts), training.label
    batches = training.open()
    if row is not None:
        return view_item(slides[0], batches, row, facts=facts), training.label
    number = 1 if step is None else step
    if number > max(1, training.steps):
        raise ConfigError(f"--step {number}: {training.label} has steps 1 to {training.steps}")
    return view_step(slides, batches, number, max_rows=rows, facts=facts), training.label


def _batches(artifact: Artifact, tokens: TokenSet, asked: Batching) -> tuple[Source, dict[str, str]]:
    """The batches of a token set, and what they follow from."""
    length, batch_tokens, seed, origin = None, None, 0, ""
    if asked.recipe or asked.stage:
        config = _section(asked, tokens)
        length, batch_tokens, seed = config.length, config.batch_tokens, config.seed
        origin = f"recipe {asked.recipe or 'quickstart'} [{asked.stage or 'by its rows'}]"
    elif asked.length is None and (training := _newest_reader(artifact)):
        pair = 2 if tokens.kind == "preference" else 1
        length, seed = training.length, training.seed
        batch_tokens, origin = training.batch_items * training.length * pair, f"{training.label}, its newest training"
    length, batch_tokens = asked.length or length, asked.batch_tokens or batch_tokens
    if length is None:
        raise ConfigError(
            f"{artifact.label} has not been trained on yet; give --length (and --batch-tokens, --seed), or "
            "--recipe and --stage"
        )
    seed = asked.seed if asked.seed is not None else seed
    item = length * (2 if tokens.kind == "preference" else 1)
    items = max(1, (batch_tokens or 8 * item) // item)
    facts = {"length": str(length), "batch": f"{items} {'pairs' if tokens.kind == 'preference' else 'rows'}"}
    facts |= {"seed": str(seed)} | ({"as": origin} if origin else {})
    return open_batches(tokens, length=length, batch_items=items, seed=seed), facts


def _section(asked: Batching, tokens: TokenSet) -> TrainConfig:
    from minimind.recipe import load_recipe

    recipe = load_recipe(asked.recipe or "quickstart")
    stage = asked.stage or {"pretrain": "pretrain", "preference": "dpo", "lora": "lora"}.get(tokens.kind, "sft")
    if stage not in TRAININGS:
        raise ConfigError(f"--stage {stage}: no training{nearest(stage, TRAININGS)}")
    section = getattr(recipe, stage)
    if section is None:
        raise ConfigError(f"--stage {stage}: recipe {recipe.name} has no section [{stage}]")
    return section


def _newest_reader(artifact: Artifact) -> Training | None:
    """The newest training in the store that read a token set."""
    readers = [one for one in trainings(store_of(artifact)) if one.tokens.fingerprint == artifact.fingerprint]
    return readers[-1] if readers else None
