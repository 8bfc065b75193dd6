"""A training's rows: its token set's two splits cut into batches, mixed and augmented as the settings say.

The training split may have rows of other token sets in it (`mix`, `beside`) and changed conversations
(`system_share`, `empty_think_share`); the validation split never has, so that its figures are comparable. What is
returned is a function of the settings and the inputs, so anyone who has both sees what the training saw.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from minimind.data.kinds import RowKind
from minimind.errors import ConfigError, DataError
from minimind.tokens.augmentation import Augmentation, AugmentedBatches
from minimind.tokens.batches import PairBatches, RowBatches, RowSource
from minimind.tokens.mixture import MixtureBatches
from minimind.tokens.pairs_beside import PairsBeside
from minimind.tokens.token_set import TokenSet
from minimind.tokens.tokenizer import Tokenizer
from minimind.train.config import StageName, TrainConfig
from minimind.train.stage_configs import DpoConfig, SftConfig


@dataclass(frozen=True)
class Split:
    """One split of the token set, cut into batches."""

    tokens: TokenSet
    batches: RowSource | PairBatches
    num_items: int
    batch_items: int

    @property
    def steps_per_epoch(self) -> int:
        return self.batches.steps_per_epoch


def open_train_split(stage: StageName, config: TrainConfig, inputs: Mapping[str, Path], tokenizer: Path) -> Split:
    """The rows that are trained on. `inputs` are directories by input name, `tokenizer` that of the tokenizer's files.

    Raises ConfigError for rows of another kind or length, and DataError where there are none.
    """
    tokens = _open(stage, config, inputs["tokens"] / "train")
    if not tokens.num_documents:
        raise DataError(f"{inputs['tokens'] / 'train'}: holds no documents; there is nothing to train on")
    split = _split(config, tokens, config.batch_items)
    batches = split.batches
    if isinstance(config, SftConfig) and config.augments:
        augmentation = Augmentation.of(
            Tokenizer.load(tokenizer),
            system_prompts=config.system_prompts,
            system_share=config.system_share,
            empty_think_share=config.empty_think_share,
        )
        batches = AugmentedBatches(
            tokens, augmentation, row_length=config.length, batch_rows=config.batch_items, seed=config.seed
        )
    if isinstance(config, DpoConfig) and config.beside:
        batches = PairsBeside(
            tokens,
            [_other(inputs, kind) for kind in config.beside],
            batch_pairs=config.batch_items,
            max_length=config.length,
            text_length=config.text_length,
            seed=config.seed,
        )
    if config.mix:
        assert not isinstance(batches, PairBatches), "the settings of dpo allow no mix"
        sources = {tokens.kind: batches} | _others(config, inputs)
        batches = MixtureBatches(sources, config.mix, batch_rows=config.batch_items, seed=config.seed)
    return Split(tokens, batches, split.num_items, split.batch_items)


def open_val_split(stage: StageName, config: TrainConfig, inputs: Mapping[str, Path], *, ranks: int) -> Split | None:
    """The held-out rows, in batches of what so many ranks hold at once; None where nothing is held out."""
    tokens = _open(stage, config, inputs["tokens"] / "val")
    return _split(config, tokens, config.micro_items * ranks) if tokens.num_documents else None


def _open(stage: StageName, config: TrainConfig, directory: Path) -> TokenSet:
    """A split of rows that the stage may train on: its own, and where it learns tokens also plain text."""
    tokens = TokenSet.open(directory)
    allowed = dict.fromkeys((*config.own_rows, "pretrain") if stage != "dpo" else config.own_rows)
    if tokens.kind not in allowed:
        raise ConfigError(f"{stage} trains on {' or '.join(allowed)} rows; its token set has {tokens.kind} rows")
    return tokens


def _split(config: TrainConfig, tokens: TokenSet, batch_items: int) -> Split:
    if isinstance(config, DpoConfig):
        pairs = PairBatches(tokens, batch_pairs=batch_items, max_length=config.length, seed=config.seed)
        return Split(tokens, pairs, pairs.num_pairs, batch_items)
    rows = RowBatches(tokens, row_length=config.length, batch_rows=batch_items, seed=config.seed)
    return Split(tokens, rows, rows.num_rows, batch_items)


def _others(config: TrainConfig, inputs: Mapping[str, Path]) -> dict[str, RowSource]:
    """The rows that are mixed in, by kind."""
    return {
        kind: RowBatches(
            _other(inputs, kind), row_length=config.length, batch_rows=config.batch_items, seed=config.seed
        )
        for kind in config.mix
    }


def _other(inputs: Mapping[str, Path], kind: RowKind) -> TokenSet:
    """The training rows of that kind, for a stage whose own are of another."""
    name = other_input(kind)
    if name not in inputs:
        raise ConfigError(f"the settings ask for {kind} rows, and the stage was given no input `{name}`; give it one")
    tokens = TokenSet.open(inputs[name] / "train")
    if tokens.kind != kind:
        raise ConfigError(f"the settings ask for {kind} rows, and the input `{name}` has {tokens.kind} rows")
    return tokens


def rows_read(config: TrainConfig, there: Collection[str]) -> dict[str, RowKind]:
    """Input name → kind of rows of every token set that a training reads where there are rows of these kinds.

    Its own comes first.
    """
    return {"tokens": config.own_kind(there)} | {other_input(kind): kind for kind in config.other_rows}


def other_input(kind: str) -> str:
    """The name of the input with the token set of that kind, for a stage whose own rows are of another."""
    return f"tokens_{kind}"
