"""Settings of a training: what is refused, what decides its identity, and how a rank reads them back."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from training_parts import TINY

from minimind.errors import ConfigError
from minimind.train.config import TrainConfig
from minimind.train.splits import rows_read
from minimind.train.stage_configs import DpoConfig, LoraConfig, PretrainConfig, SftConfig, TrainRun


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "exactly one of `epochs` and `tokens`"),
        ({"epochs": 1, "tokens": 100}, "exactly one of `epochs` and `tokens`"),
        ({"epochs": 1, "batch_tokens": 256, "length": 512}, "holds no row of `length` 512"),
        ({"epochs": 1, "batch_tokens": 1024, "length": 512, "processes": 4}, "fewer than `processes` 4"),
        ({"epochs": 1, "lr": 1e-4, "min_lr": 1e-3}, "`min_lr` 0.001 is above `lr` 0.0001"),
        ({"epochs": 1, "lr": -1}, "`lr`: input should be greater than 0"),
        ({"epochs": 0}, "`epochs`: input should be greater than 0"),
        ({"epochs": 1, "warmup": 3}, "unknown key `warmup` (did you mean `warmup_steps`?)"),
        ({"epochs": 1, "optimizer": "sgd"}, "`optimizer`: input should be 'adamw' or 'muon'"),
        ({"epochs": 1, "lr_scales": {"head": 1.0}}, "`lr_scales.head"),
        ({"epochs": 1, "parallel": "deepspeed"}, "the table `deepspeed` (or the path of a ds_config.json) go together"),
        ({"epochs": 1, "deepspeed": {}}, "give both or neither"),
        ({"epochs": 1, "parallel": "deepspeed", "deepspeed": "no.json"}, "no JSON file that can be read: no.json"),
        ({"epochs": 1, "parallel": "zero9"}, "`parallel`: input should be 'ddp', 'zero1', 'fsdp' or 'deepspeed'"),
    ],
)
def test_impossible_settings_are_refused_by_name(values: dict[str, object], message: str) -> None:
    """A wrong recipe must fail before an hour of training, and say which key to change."""
    with pytest.raises(ConfigError) as error:
        TrainConfig.parse(values, origin="recipe.toml")
    assert message in str(error.value)
    assert str(error.value).startswith("recipe.toml: ")


def test_a_pair_is_two_rows() -> None:
    """Preference batches are as large as the same number of tokens in rows."""
    values = {"epochs": 1, "batch_tokens": 4096, "length": 512, "micro_tokens": 2048}
    assert (SftConfig(**values).batch_items, SftConfig(**values).micro_items) == (8, 4)
    assert (DpoConfig(**values).batch_items, DpoConfig(**values).micro_items) == (4, 2)
    with pytest.raises(ConfigError, match="holds no pair"):
        DpoConfig.parse({**values, "batch_tokens": 512}, origin="recipe")


@pytest.mark.parametrize(
    ("values", "steps"),
    [
        ({"epochs": 2}, 20),
        ({"epochs": 0.25}, 3),
        ({"epochs": 1.1}, 11),
        ({"tokens": 4096 * 5}, 5),
        ({"tokens": 1}, 1),
        ({"epochs": 2, "max_tokens": 4096 * 5 - 1}, 5),
        ({"epochs": 0.2, "max_tokens": 4096 * 5}, 2),
    ],
)
def test_training_lasts_whole_steps_rounded_up(values: dict[str, float], steps: int) -> None:
    """The last batch is trained whole: nothing of an epoch is left out, and 1.1 epochs are not 12 steps."""
    assert TrainConfig(batch_tokens=4096, length=512, **values).total_steps(steps_per_epoch=10) == steps


def test_where_and_how_fast_is_no_part_of_the_identity() -> None:
    """More processes or a finer log must not train anew; another learning rate must."""
    config = LoraConfig(epochs=1)
    moved = config.replace(processes=2, threads=1, device="cpu", log_every=1, checkpoint_seconds=5.0, micro_tokens=512)
    assert config.identity() == moved.identity()
    assert config.identity() != config.replace(lr=2e-4).identity()
    assert config.identity() != config.replace(rank=8).identity()


def test_a_rank_reads_back_the_settings_of_its_stage() -> None:
    """`run.json` is all a rank knows; a lost field would train something else."""
    for stage, config in (
        ("pretrain", PretrainConfig(epochs=1, model=TINY)),
        ("dpo", DpoConfig(tokens=9999, beta=0.3, label_smoothing=0.1)),
        ("lora", LoraConfig(epochs=0.5, targets=("v_proj",))),
    ):
        run = TrainRun(
            stage=stage, config=config, inputs={"tokens": Path("/t")}, fingerprints={"tokens": "ab"}, out_dir=Path("/o")
        )
        again = TrainRun.model_validate_json(run.model_dump_json())
        assert again == run
        assert type(again.config) is type(config)


@pytest.mark.parametrize(
    ("cls", "values", "said"),
    [
        (SftConfig, {"mix": {"chat": 0.1}}, "other than its own, chat"),
        (SftConfig, {"mix": {"lora": 0.1}}, "Input should be 'pretrain' or 'chat'"),
        (TrainConfig, {"mix": {"pretrain": 0.1}}, "other than its own, pretrain"),
        (SftConfig, {"mix": {"pretrain": 0.995}}, "leaves 0.01 or more"),
        (DpoConfig, {"mix": {"chat": 0.1}}, "dpo reads them `beside` its pairs"),
        (SftConfig, {"system_share": 0.2}, "need each other"),
        (SftConfig, {"system_prompts": ["Be kind."]}, "need each other"),
    ],
)
def test_a_mixture_or_augmentation_that_cannot_be_is_an_error(
    cls: type[TrainConfig], values: dict[str, Any], said: str
) -> None:
    """Said before anything is built, with the settings that disagree."""
    with pytest.raises(ValidationError, match=said):
        cls(epochs=1, **values)


def test_lora_learns_rows_of_its_own_where_there_are_any() -> None:
    """And chats beside them where `mix` says so: then these are not its own, whatever there is."""
    config = LoraConfig(epochs=1)
    assert config.own_kind(["pretrain", "chat"]) == config.own_kind() == "chat"
    assert config.own_kind(["pretrain", "chat", "lora"]) == "lora"
    assert rows_read(config.replace(mix={"chat": 0.5}), ["chat"]) == {"tokens": "lora", "tokens_chat": "chat"}
    assert rows_read(SftConfig(epochs=1), ["pretrain", "chat", "lora"]) == {"tokens": "chat"}


def test_mixtures_and_augmentation_are_off_by_default_and_count() -> None:
    """What a model learnt from is a part of what it is."""
    config = SftConfig(epochs=1)
    assert not config.mix and not config.augments
    for changes in ({"mix": {"pretrain": 0.1}}, {"empty_think_share": 0.1}):
        assert config.replace(**changes).identity() != config.identity()
