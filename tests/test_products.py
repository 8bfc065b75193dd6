"""Products for generating: what they compute, how far rounded weights are off, rows that know nothing of each other."""

import pytest
import torch
from torch.nn import functional as F

from minimind import runtime
from minimind.errors import ConfigError
from minimind.infer import products
from minimind.infer.products import GROUP, Precision, Projection, alike, choose, sizes_alike

CPU = torch.device("cpu")


@pytest.fixture(params=[False, True], ids=["any processor", "avx512_bf16"], autouse=True)
def multiplies_bf16(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Every way of multiplying on whatever processor this is; bf16 is emulated where there is none."""
    monkeypatch.setattr(runtime, "cpu_multiplies_bf16", lambda: request.param)
    return request.param


def weight(outputs: int, inputs: int, *, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed))


def rows(count: int, inputs: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(count, inputs, generator=torch.Generator().manual_seed(1)).to(dtype)


def made(precision: Precision, *weights: torch.Tensor) -> tuple[Projection, torch.dtype]:
    precision, dtype = choose(precision, CPU)
    return Projection(weights, precision, dtype), dtype


@pytest.mark.parametrize(
    ("precision", "error"), [("fp32", 1e-5), ("fp16", 1e-3), ("bf16", 0.02), ("int8", 0.02), ("int4", 0.15)]
)
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


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_also_where_nothing_widens_many_rows(precision: Precision, monkeypatch: pytest.MonkeyPatch) -> None:
    """FBGEMM is for x86: elsewhere prompts are multiplied in fp32, but with the weights that answers have."""
    monkeypatch.setattr(products, "_widens_fp16", lambda: False)
    monkeypatch.setattr(runtime, "cpu_multiplies_bf16", lambda: False)
    projection, dtype = made(precision, weight(64, 128))
    x_NK = rows(7, 128, dtype)
    few_NF, many_NF = projection(x_NK, many=False), projection(x_NK, many=True)
    assert (few_NF - many_NF).norm() <= 1e-6 * many_NF.norm()


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8", "int4"])
@pytest.mark.parametrize("shape", [(96, 64), (32, 1408), (640, 512), (48, 704), (24, 40)])
@pytest.mark.parametrize("many", [False, True])
def test_a_row_does_not_depend_on_the_others(precision: Precision, shape: tuple[int, int], many: bool) -> None:
    """The same seed must give the same text, whoever else is being answered: to the bit, for any number of rows."""
    projection, dtype = made(precision, weight(*shape))
    x_NK = rows(200, shape[1], dtype)
    among_many = projection(x_NK, many=many)
    for first, count in [*enumerate(range(1, 65)), (10, 64), (3, 65), (0, 66), (61, 128), (7, 130)]:
        part = slice(first, first + count)
        assert torch.equal(projection(x_NK[part], many=many), among_many[part]), part


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


def test_sizes_are_found_at_which_a_product_is_steady() -> None:
    """Libraries choose another kernel for few rows; the numbers here play one that does so below four."""

    def product(x_NK: torch.Tensor) -> torch.Tensor:
        return x_NK * (1.0 if len(x_NK) >= 4 else 1.5)

    assert sizes_alike(product, 8, torch.float32) == [0, 4, 4, 4, *range(4, 65)]
    x_NK = rows(3, 8, torch.float32)
    assert torch.equal(alike(product, "plays", torch.zeros(8, 8), torch.float32)(x_NK), x_NK)


def test_sizes_are_found_for_a_product_that_treats_its_last_rows_apart() -> None:
    """FBGEMM multiplies six rows at a time, and what is left over otherwise if it is one or two."""

    def product(x_NK: torch.Tensor) -> torch.Tensor:
        tail = len(x_NK) % 6
        return torch.cat((x_NK[:-tail], 1.5 * x_NK[-tail:])) if tail in (1, 2) else x_NK.clone()

    sizes = sizes_alike(product, 8, torch.float32)
    assert sizes[:8] == [0, 3, 3, 3, 4, 5, 6, 12]
    assert all(rows <= size and size % 6 not in (1, 2) for rows, size in enumerate(sizes))
    x_NK = rows(200, 8, torch.float32)
    steady = alike(product, "plays tails", torch.zeros(8, 8), torch.float32)
    assert all(torch.equal(steady(x_NK[:count]), x_NK[:count]) for count in range(1, 201))


def test_weights_too_large_for_fp16_stay_what_they_are() -> None:
    """What holds 16 bits of a weight holds them up to 65504; a larger one must not become that."""
    weight_FK = weight(8, 16)
    weight_FK[3, 5] = 1e6
    for precision in ("fp16", "bf16"):
        projection, dtype = made(precision, weight_FK)
        y_NF = projection(torch.ones(1, 16, dtype=dtype), many=False).float()
        assert y_NF[0, 3] == pytest.approx(1e6, rel=0.01)


def test_a_width_that_the_processor_multiplies_is_chosen(multiplies_bf16: bool) -> None:
    """Elsewhere bf16 is what the weights are rounded to; emulated products of it are six times as slow as fp32's."""
    wide = torch.bfloat16 if multiplies_bf16 else torch.float32
    assert choose("bf16", CPU) == ("bf16", wide)
    assert choose("int8", CPU) == ("int8", wide)
    assert choose("fp16", CPU) == ("fp16", torch.float32)
    assert choose("auto", CPU)[0] in (("bf16",) if multiplies_bf16 else ("fp16", "fp32"))


def test_widths_for_the_cpu_are_refused_elsewhere() -> None:
    """Their kernels are the CPU's."""
    with pytest.raises(ConfigError, match=r"int4 is for the CPU.*bf16"):
        choose("int4", torch.device("cuda"))
