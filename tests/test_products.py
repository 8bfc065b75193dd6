"""Products for generating: what they compute, how far rounded weights are off, rows that know nothing of each other."""

import pytest
import torch
from torch.nn import functional as F

from minimind.errors import ConfigError
from minimind.infer.products import GROUP, Precision, Projection, choose, few_rows, rows_apart

WIDE = (torch.float32, torch.bfloat16)


def weight(outputs: int, inputs: int, *, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed))


def rows(count: int, inputs: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(count, inputs, generator=torch.Generator().manual_seed(1)).to(dtype)


def made(precision: Precision, *weights: torch.Tensor) -> tuple[Projection, torch.dtype]:
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    return Projection(weights, precision, dtype), dtype


@pytest.mark.parametrize(("precision", "error"), [("fp32", 1e-5), ("bf16", 0.02), ("int8", 0.02), ("int4", 0.15)])
@pytest.mark.parametrize("many", [False, True])
def test_a_product_is_what_the_matrix_gives(precision: Precision, error: float, many: bool) -> None:
    """Weights are laid out anew and rounded: a slip in a scale or in the order of bits would be fluent nonsense."""
    weight_FK = weight(48, 96)
    projection, dtype = made(precision, weight_FK)
    x_NK = rows(5, 96, dtype)
    exact_NF = x_NK.float() @ weight_FK.T
    assert (projection(x_NK, many=many).float() - exact_NF).norm() <= error * exact_NF.norm()


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_prompts_and_answers_are_multiplied_by_the_same_rounded_weights(precision: Precision) -> None:
    """Else the model that reads would be another one than the model that answers."""
    projection, dtype = made(precision, weight(64, 128))
    x_NK = rows(7, 128, dtype)
    few_NF, many_NF = projection(x_NK, many=False).float(), projection(x_NK, many=True).float()
    assert (few_NF - many_NF).norm() <= 0.01 * many_NF.norm()


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8", "int4"])
@pytest.mark.parametrize("shape", [(96, 64), (32, 1408), (640, 512), (48, 704)])
@pytest.mark.parametrize("many", [False, True])
def test_a_row_does_not_depend_on_the_others(precision: Precision, shape: tuple[int, int], many: bool) -> None:
    """The same seed must give the same text, whoever else is being answered: to the bit, for any number of rows."""
    projection, dtype = made(precision, weight(*shape))
    x_NK = rows(64, shape[1], dtype)
    among_many = projection(x_NK, many=many)
    for count in (1, 2, 3, 5, 8, 17, 33):
        assert torch.equal(projection(x_NK[:count], many=many), among_many[:count]), count


def test_several_matrices_are_one_product() -> None:
    """Queries, keys and values have the same input, and one large product is faster than three small ones."""
    parts = [weight(outputs, 32, seed=outputs) for outputs in (16, 4, 8)]
    projection, _ = made("fp32", *parts)
    x_NK = rows(3, 32, torch.float32)
    assert projection.firsts == [0, 16, 20]
    assert torch.allclose(
        projection(x_NK, many=True), torch.cat([F.linear(x_NK, part) for part in parts], -1), atol=1e-6
    )


def test_an_adapter_changes_the_rows_that_wear_it_and_no_others() -> None:
    """Answers with and without adapters are multiplied together."""
    first, second, low_A, low_B = weight(16, 32), weight(8, 32, seed=1), weight(4, 32, seed=2), weight(8, 4, seed=3)
    projection, _ = made("fp32", first, second)
    projection.correct("mine", projection.firsts[1], low_A, low_B)
    x_NK = rows(5, 32, torch.float32)
    y_NF = projection(x_NK, [("mine", torch.tensor([1, 3]))], many=False)
    plain_NF, worn_NF = (
        F.linear(x_NK, torch.cat((first, second))),
        F.linear(x_NK, torch.cat((first, second + low_B @ low_A))),
    )
    for row in range(5):
        wanted = worn_NF if row in (1, 3) else plain_NF
        assert torch.allclose(y_NF[row], wanted[row], atol=1e-5)
    assert torch.allclose(projection(x_NK, [("mine", slice(None))], many=True), worn_NF, atol=1e-5)


def test_a_shape_that_four_bits_cannot_hold_has_eight() -> None:
    """A width that is no multiple of the kernel's must work, only not as fast."""
    weight_FK = weight(24, GROUP + 8)
    projection, dtype = made("int4", weight_FK)
    x_NK = rows(2, GROUP + 8, dtype)
    exact_NF = x_NK.float() @ weight_FK.T
    assert (projection(x_NK, many=False).float() - exact_NF).norm() <= 0.02 * exact_NF.norm()


def test_rows_are_found_from_which_on_a_product_is_steady() -> None:
    """Libraries choose another kernel for few rows; the numbers here play one that does so below four."""

    def product(x_NK: torch.Tensor) -> torch.Tensor:
        return x_NK * (1.0 if len(x_NK) >= 4 else 1.5)

    assert rows_apart(product, 8, torch.float32) == 4
    x_NK = rows(3, 8, torch.float32)
    assert torch.equal(few_rows(product, 4)(x_NK), x_NK)
    assert torch.equal(few_rows(product, 1)(x_NK), 1.5 * x_NK)


def test_widths_for_the_cpu_are_refused_elsewhere() -> None:
    """Their kernels are the CPU's."""
    assert choose("int8", torch.device("cpu")) == ("int8", torch.bfloat16)
    with pytest.raises(ConfigError, match=r"int4 is for the CPU.*bf16"):
        choose("int4", torch.device("cuda"))
