"""Kernels compiled here: what they compute, and that nothing about company, threads or vectors changes a row."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from minimind.infer import kernels
from minimind.infer.kernels import fits, narrow_product

WIDTHS = (torch.bfloat16, torch.float16, torch.int8)


@pytest.fixture(autouse=True)
def compiled_anew() -> Iterator[None]:
    """What a test changes of the processor does not outlive it."""
    caches = (kernels._kernel, kernels._openmp, kernels.fits)
    for cached in caches:
        cached.cache_clear()
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    for cached in caches:
        cached.cache_clear()


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def made(width: torch.dtype, outputs: int, inputs: int) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """A product, and its matrix in fp64."""
    weight_FK, scale_F = drawn(outputs, inputs, seed=0), None
    if width == torch.int8:
        weight_FK, scale_F = (40 * weight_FK).round().clamp(-127, 127), drawn(outputs, seed=1)
    narrow_FK = weight_FK.to(width)
    exact_FK = narrow_FK.double() if scale_F is None else narrow_FK.double() * scale_F[:, None]
    return narrow_product(narrow_FK, scale_F), exact_FK


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("lanes", [8, 16])
def test_a_product_is_what_the_matrix_gives(width: torch.dtype, lanes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """For any number of rows and outputs, odd ones too, with the vectors of either kind of processor."""
    monkeypatch.setattr(kernels, "_lanes", lambda: lanes)
    for outputs, inputs in ((37, 96), (640, 1408), (1, 32)):
        product, exact_FK = made(width, outputs, inputs)
        for rows in (1, 2, 3, 4, 5, 8, 19):
            x_NK = drawn(rows, inputs, seed=2)
            exact_NF = x_NK.double() @ exact_FK.T
            assert (product(x_NK) - exact_NF).norm() <= 1e-6 * exact_NF.norm()


@pytest.mark.parametrize("width", WIDTHS)
def test_a_row_depends_neither_on_others_nor_on_threads(width: torch.dtype) -> None:
    """To the bit: the order of every sum is written down."""
    product, _ = made(width, 300, 512)
    x_NK = drawn(21, 512, seed=2)
    torch.set_num_threads(1)
    wanted_NF = product(x_NK)
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        for first in range(0, 20, 3):
            for stop in range(first + 1, 22):
                assert torch.equal(product(x_NK[first:stop]), wanted_NF[first:stop])


def test_where_there_is_no_openmp_one_thread_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is found by looking, and may be called something else elsewhere."""
    monkeypatch.setattr(kernels, "_openmp", lambda: None)
    product, exact_FK = made(torch.bfloat16, 300, 512)
    x_NK = drawn(3, 512, seed=2)
    assert torch.allclose(product(x_NK).double(), x_NK.double() @ exact_FK.T, atol=1e-3)


def test_rows_that_do_not_lie_next_to_each_other_are_read_right() -> None:
    """A slice of something wider has gaps between its rows."""
    product, exact_FK = made(torch.bfloat16, 40, 64)
    x_NK = drawn(4, 100, seed=2)[:, 20:84]
    assert torch.allclose(product(x_NK).double(), x_NK.double() @ exact_FK.T, atol=1e-4)


def test_widths_without_a_whole_number_of_vectors_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is beyond a matrix is somebody else's memory."""
    monkeypatch.setattr(kernels, "_lanes", lambda: 8)
    assert not fits(40)
    assert not fits(24)
    monkeypatch.setattr(kernels.platform, "machine", lambda: "riscv64")
    fits.cache_clear()
    assert not fits(64)


def test_a_processor_that_cannot_widen_is_not_asked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without fused multiplication each would be a call into a library, a hundred times as slow."""
    monkeypatch.setattr(kernels.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(kernels.binding, "get_host_cpu_features", dict)
    assert not fits(64)
