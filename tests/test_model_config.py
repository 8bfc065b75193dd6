"""Presets to the unit, sizes that are derived, and impossible shapes."""

import pytest
import torch

from minimind.errors import ConfigError
from minimind.model.config import PRESETS, ModelConfig, count_active_parameters, count_parameters
from minimind.model.transformer import Transformer

EXACT_COUNTS = {
    "minimind-3": 63_912_192,
    "minimind-3-moe": 198_416_640,
    "minimind2-small": 25_829_888,
    "minimind2": 104_030_976,
    "minimind2-moe": 145_029_760,
}


@pytest.mark.parametrize("name", EXACT_COUNTS)
def test_a_preset_has_exactly_its_published_number_of_parameters(name: str) -> None:
    """The count is what tells one model of the family from another; one unit off is another model."""
    with torch.device("meta"):
        model = Transformer(PRESETS[name])
    built = sum(parameter.numel() for parameter in model.parameters())
    assert built == count_parameters(PRESETS[name]) == EXACT_COUNTS[name]


def test_the_active_count_leaves_out_experts_a_token_does_not_visit() -> None:
    """It is the published figure, and what the cost of a token is estimated from."""
    assert count_active_parameters(PRESETS["minimind-3-moe"]) == 63_936_768
    assert count_active_parameters(PRESETS["minimind-3"]) == EXACT_COUNTS["minimind-3"]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"qk_norm": False},
        {"tie_embeddings": False},
        {"num_experts": 4, "experts_per_token": 2},
        {"num_experts": 3, "experts_per_token": 1, "num_shared_experts": 2},
    ],
)
def test_the_counting_formula_agrees_with_the_built_model(changes: dict[str, object]) -> None:
    """Estimates use the formula for shapes that nobody has built yet."""
    config = PRESETS["minimind-nano"].replace(**changes)
    with torch.device("meta"):
        model = Transformer(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == count_parameters(config)


def test_a_recipe_may_name_a_preset_and_change_fields() -> None:
    """The quickstart takes the nano preset with a vocabulary of its own."""
    config = ModelConfig.parse({"preset": "minimind-nano", "vocab_size": 2048}, origin="recipe")
    assert config == PRESETS["minimind-nano"].replace(vocab_size=2048)


def test_sizes_left_out_are_derived() -> None:
    """⌈768·π/64⌉·64 = 2432 is the published width of minimind-3."""
    config = ModelConfig.parse({"hidden_size": 768, "num_layers": 1, "num_heads": 8}, origin="recipe")
    assert (config.num_kv_heads, config.head_size, config.ffn_size) == (8, 96, 2432)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"preset": "minimind-nan"}, "minimind-nano"),
        ({"num_kv_heads": 3}, "multiple of num_kv_heads"),
        ({"head_size": 15}, "must be even"),
        ({"hidden_size": 0}, "hidden_size"),
        ({"experts_per_token": 2}, "need num_experts above 0"),
        ({"num_experts": 4}, "from 1 to num_experts"),
        ({"num_layrs": 4}, "num_layers"),
    ],
)
def test_an_impossible_shape_says_what_is_allowed(values: dict[str, object], message: str) -> None:
    """A shape comes from a user's TOML; the message must be enough to mend it."""
    with pytest.raises(ConfigError, match=message):
        ModelConfig.parse({"preset": "minimind-nano", **values}, origin="recipe")
