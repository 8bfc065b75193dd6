"""A recipe: how a model is learnt, every stage's settings in one TOML file.

The sections are the stages' own config classes, so a recipe cannot say what a stage does not
understand. What is learnt from is said elsewhere, by the data spec that `[data] spec` names.
A training section that is left out is a stage that does not run; `[pretrain]` always does.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from minimind import runtime
from minimind.config import WHERE, Config, apply_overrides, expanded, nearest, read_toml
from minimind.data.documents import CONTENT, RowKind
from minimind.errors import ConfigError, MissingError
from minimind.evaluate.config import EvaluateConfig, GateConfig, PublishConfig, PublishSection, resolved
from minimind.model.config import ModelConfig
from minimind.tokens.fitting import LEAST_TOKENS, TooLong
from minimind.tokens.foreign_tokenizer import open_foreign
from minimind.tokens.tokenizer_training import TokenizerConfig
from minimind.tokens.tokenizing import TokensConfig
from minimind.train.config import TrainConfig
from minimind.train.stage_configs import DistillConfig, DpoConfig, LoraConfig, PretrainConfig, SftConfig


class DataSection(Config):
    """`[data]`: a data spec by name (a file in `data_specs/`) or by path."""

    spec: str = "pydocs"


class TokensSection(Config):
    """`[tokens]`: what becomes of conversations that are longer than the `length` of the trainings that read them."""

    chat_too_long: TooLong = "drop"
    """`drop` leaves them out, `cut_left` takes out the oldest turns, `split` makes several of one."""
    lora_too_long: TooLong = "drop"
    preference_too_long: Literal["drop", "cut_left"] = "drop"
    prompt_too_long: Literal["drop", "cut_left"] = "drop"
    max_prompt_tokens: Annotated[int, Field(ge=LEAST_TOKENS)] | None = None
    """Longest prompt; no training of a recipe reads prompts, so no `length` says it."""


class DistillSection(DistillConfig):
    """`[distill]`, and the model that teaches: a registry URI or an artifact directory."""

    teacher: Annotated[str, WHERE] = "models:/minimind-sft@candidate"

    def stage_config(self) -> DistillConfig:
        return DistillConfig.model_validate(self.model_dump(exclude={"teacher"}))


class Recipe(Config):
    """All settings of a pipeline."""

    name: str
    description: str = ""
    data: DataSection = DataSection()
    tokenizer: TokenizerConfig = TokenizerConfig()
    tokens: TokensSection = TokensSection()
    model: ModelConfig
    pretrain: TrainConfig
    sft: SftConfig | None = None
    dpo: DpoConfig | None = None
    lora: LoraConfig | None = None
    distill: DistillSection | None = None
    evaluate: EvaluateConfig = EvaluateConfig()
    publish: PublishSection = PublishSection()
    gate: GateConfig = GateConfig()

    @model_validator(mode="after")
    def _rows_hold_a_conversation(self) -> Self:
        for name in ("pretrain", "sft", "dpo", "lora", "distill"):
            training: TrainConfig | None = getattr(self, name)
            if training is None or training.length >= LEAST_TOKENS:
                continue
            if any(kind in (training.own_kind({kind}), *training.mix) for kind in CONTENT if kind != "pretrain"):
                raise ValueError(
                    f"`{name}.length` {training.length} holds no conversation; give it {LEAST_TOKENS} or more"
                )
        return self

    def pretrain_config(self, vocab_size: int) -> PretrainConfig:
        """`[pretrain]` together with `[model]`, sized for the tokenizer that is used."""
        return PretrainConfig(**dict(self.pretrain), model=self.model.replace(vocab_size=vocab_size))

    def publish_config(self) -> PublishConfig:
        """`[publish]` together with `[gate]`: a published model says what it had to pass."""
        return PublishConfig(**dict(self.publish), gate=self.gate)

    def tokens_config(self, rows: RowKind, there: Collection[RowKind] = ()) -> TokensConfig:
        """How rows of one kind become tokens: it follows from the trainings that read them.

        `there` are the kinds that there are rows of beside them: a training may have a choice.
        """
        longest = self.tokens.max_prompt_tokens if rows == "prompt" else self.longest_document(rows, there)
        return TokensConfig(
            rows=rows,
            max_tokens=longest,
            too_long="drop" if rows == "pretrain" else getattr(self.tokens, f"{rows}_too_long"),
            row_lengths=() if rows == "preference" else self._lengths(rows, there),
        )

    def longest_document(self, rows: RowKind, there: Collection[RowKind] = ()) -> int | None:
        """Tokens a conversation or one side of a pair may have; None where documents are split instead."""
        return None if rows == "pretrain" else min(self._lengths(rows, there), default=None)

    def _lengths(self, rows: RowKind, there: Collection[RowKind]) -> tuple[int, ...]:
        """The row lengths of the trainings that read these rows, as their own or mixed in."""
        trainings = (self.pretrain, self.sft, self.dpo, self.lora, self.distill)
        return tuple(sorted({c.length for c in trainings if c and rows in (c.own_kind({*there, rows}), *c.mix)}))


def recipe_dir() -> Path:
    """Where the recipes that ship are."""
    return runtime.CHECKOUT / "flows" / "recipes"


def recipe_names() -> list[str]:
    return sorted(path.stem for path in recipe_dir().glob("*.toml"))


def load_recipe(recipe: str, *, overrides: Sequence[str] = (), data: str | None = None) -> Recipe:
    """The recipe of that name or path with `section.key=value` overrides; `data` replaces its data spec.

    Raises MissingError with the names that ship, or ConfigError with the file, the key and the nearest known key.
    """
    is_path, known = recipe.endswith(".toml"), recipe_names()
    path = expanded(recipe) if is_path else recipe_dir() / f"{recipe}.toml"
    if not (path.exists() if is_path else recipe in known):  # a name does not lead elsewhere
        raise MissingError(f"no recipe `{recipe}`{nearest(recipe, known)}; a path must end in .toml")
    values = _one_length(apply_overrides(read_toml(path), overrides), overrides)
    values.setdefault("name", path.stem)
    if data:
        values["data"] = {**_table(values, "data", path), "spec": data}
    values["tokenizer"] = _tokenizer(_table(values, "tokenizer", path), path, overrides)
    values["evaluate"] = resolved(_table(values, "evaluate", path), path.resolve().parent, given=_given(overrides))
    tokenizer = TokenizerConfig.parse(values["tokenizer"], origin=f"{path} [tokenizer]")
    values["model"] = {"vocab_size": tokenizer.vocab_size, **_table(values, "model", path)}
    if values["model"]["vocab_size"] != tokenizer.vocab_size:
        raise ConfigError(
            f"{path}: `model.vocab_size` {values['model']['vocab_size']} is not `tokenizer.vocab_size` "
            f"{tokenizer.vocab_size}; leave the first out"
        )
    return Recipe.parse(values, origin=str(path) + (f" with -o {' '.join(overrides)}" if overrides else ""))


def _tokenizer(table: dict[str, Any], path: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """`[tokenizer]` with a file: its path as seen from the recipe (of an override, from here), and its size."""
    if not isinstance(table.get("file"), str):
        return table
    given = _given(overrides)
    if "tokenizer.file" in given and "tokenizer.vocab_size" not in given:
        table = {key: value for key, value in table.items() if key != "vocab_size"}
    base = Path.cwd() if "tokenizer.file" in given else path.resolve().parent
    file = str(base / expanded(table["file"]))
    try:
        size = open_foreign(file).vocab_size
    except (ConfigError, MissingError) as error:
        raise type(error)(f"{path}: {error}") from None
    if table.get("vocab_size", size) != size:
        raise ConfigError(
            f"{path}: `tokenizer.vocab_size` is {table['vocab_size']}, but `tokenizer.file` {file} has {size} ids; "
            "leave the first out"
        )
    return {**table, "file": file, "vocab_size": size}


def _one_length(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """`values` where an override of a section's `epochs` takes the place of its `tokens`, and the other way round."""
    given = _given(overrides)
    for section, table in values.items():
        for name, other in (("epochs", "tokens"), ("tokens", "epochs")):
            if f"{section}.{name}" in given and f"{section}.{other}" not in given and isinstance(table, dict):
                values = {**values, section: {key: value for key, value in table.items() if key != other}}
    return values


def _given(overrides: Sequence[str]) -> set[str]:
    """The settings that overrides name, as `section.key`."""
    return {override.partition("=")[0].strip() for override in overrides}


def _table(values: Mapping[str, Any], name: str, path: Path) -> dict[str, Any]:
    table = values.get(name, {})
    if not isinstance(table, Mapping):
        raise ConfigError(f"{path}: `{name}` must be a section [{name}], not a value")
    return dict(table)
