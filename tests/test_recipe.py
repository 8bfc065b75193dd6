"""Recipes: what ships loads, and what is wrong is said with the key and its nearest match."""

import pytest

from minimind.errors import ConfigError, MissingError
from minimind.recipe import load_recipe, recipe_names


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_that_ships_loads(name: str):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.model.vocab_size == recipe.tokenizer.vocab_size
    assert recipe.sft and recipe.dpo and recipe.lora


def test_a_broken_key_is_named_with_its_nearest_match(tmp_path):
    """The first thing a user mistypes."""
    path = tmp_path / "mine.toml"
    path.write_text('[model]\npreset = "minimind-nano"\n[pretrain]\nepochs = 1\nlearning_rate = 1e-3\nwarmup = 3\n')
    with pytest.raises(
        ConfigError, match=r"mine\.toml: unknown key `pretrain\.learning_rate`.*`pretrain\.warmup`.*warmup_steps"
    ):
        load_recipe(str(path))


def test_an_override_changes_one_number_and_its_origin_is_in_the_error():
    assert load_recipe("quickstart", overrides=["pretrain.lr=1e-5", "pretrain.min_lr=1e-6"]).pretrain.lr == 1e-5
    with pytest.raises(ConfigError, match=r"-o pretrain\.lr=-1"):
        load_recipe("quickstart", overrides=["pretrain.lr=-1"])


def test_epochs_given_on_the_command_line_replace_the_recipes_tokens_and_the_other_way_round():
    """A recipe says one of the two; whoever changes the length of a run should not have to know which."""
    assert load_recipe("quickstart", overrides=["pretrain.tokens=4096"]).pretrain.epochs is None
    assert load_recipe("quickstart", overrides=["pretrain.epochs=3"]).pretrain.tokens is None


def test_an_unknown_recipe_is_an_error_with_the_known_ones():
    with pytest.raises(MissingError, match="quickstart"):
        load_recipe("quickstar")


def test_a_data_spec_given_beside_the_recipe_replaces_its_own():
    assert load_recipe("quickstart", data="local").data.spec == "local"


def test_the_longest_document_is_what_every_stage_that_reads_it_can_hold():
    recipe = load_recipe("quickstart", overrides=["sft.length=512", "lora.length=128"])
    assert recipe.longest_document("chat") == 128
    assert recipe.longest_document("pretrain") is None


def test_tokens_follow_from_the_trainings_that_read_them():
    """Own rows and rows that are mixed in; each length has a packing plan of its own."""
    recipe = load_recipe(
        "quickstart",
        overrides=["sft.length=512", "pretrain.length=128", "sft.mix.pretrain=0.1", "tokens.chat_too_long=split"],
    )
    text, chat = recipe.tokens_config("pretrain"), recipe.tokens_config("chat")
    assert (text.max_tokens, text.too_long, text.row_lengths) == (None, "drop", (128, 512))
    assert (chat.max_tokens, chat.too_long, chat.row_lengths) == (256, "split", (256, 512))
    assert recipe.tokens_config("preference").max_tokens == recipe.dpo.length
    assert recipe.tokens_config("prompt").max_tokens is None
    mixed = load_recipe("quickstart", overrides=["pretrain.mix.chat=0.1", "pretrain.length=64"])
    assert mixed.tokens_config("chat").max_tokens == 64
    assert mixed.tokens_config("chat").row_lengths == (64, 256)


def test_lora_rows_have_the_length_of_lora_and_then_leave_chats_alone():
    """A short LoRA on a few rows must not drop long conversations that only SFT reads."""
    recipe = load_recipe("quickstart", overrides=["sft.length=512", "lora.length=128", "tokens.lora_too_long=cut_left"])
    lora = recipe.tokens_config("lora", ("pretrain", "chat", "lora"))
    assert (lora.max_tokens, lora.too_long, lora.row_lengths) == (128, "cut_left", (128,))
    assert lora == recipe.tokens_config("lora")
    assert recipe.tokens_config("chat", ("pretrain", "chat", "lora")).max_tokens == 512
    assert recipe.tokens_config("chat", ("pretrain", "chat")).max_tokens == 128


def test_a_policy_that_a_kind_of_rows_cannot_have_is_named():
    with pytest.raises(ConfigError, match=r"tokens\.preference_too_long"):
        load_recipe("quickstart", overrides=["tokens.preference_too_long=split"])
