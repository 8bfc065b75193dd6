"""What a training costs a machine: floating-point operations, their share of the peak, memory.

The peaks of GPUs are the makers' figures for dense bf16 products. That of a CPU is measured, since nobody states it: a
matrix product in the dtype of the training, with its threads, when it is first asked for. Not here: estimates before a
run (`estimate.py`).
"""

import resource
import sys
import time
from functools import cache

import torch

from minimind.model.config import ModelConfig, count_active_parameters

PEAK_BF16 = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "RTX 5090": 210e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}
"""Part of a GPU's name → operations per second; the first that fits counts."""

GEMM_SIZE = 1024
"""Of the product a CPU is measured with: large enough for its best rate, 10 to 25 ms on a core."""
GEMM_REPEATS = 3
"""The best of so many counts: another process only ever makes it slower."""


def flops_per_token(config: ModelConfig, length: int) -> float:
    """Of a training step: 6 per active parameter, and causal attention over rows of `length`.

    The embedding is counted as the output projection it is tied to. Rows of several documents
    need less attention than this.
    """
    attention = 6 * config.num_layers * config.num_heads * config.head_size * length
    untied = 0 if config.tie_embeddings else config.vocab_size * config.hidden_size
    return 6.0 * (count_active_parameters(config) - untied) + attention


def training_flops_per_token(
    config: ModelConfig, length: int, *, adapted: bool = False, teacher: ModelConfig | None = None
) -> float:
    """The same where frozen weights need no gradient (`adapted`: a third less), or a `teacher` adds its pass."""
    whole = flops_per_token(config, length) * (2 / 3 if adapted else 1)
    return whole + (flops_per_token(teacher, length) / 3 if teacher else 0.0)


def peak_flops(device: torch.device, dtype: torch.dtype = torch.bfloat16) -> float | None:
    """Operations per second that the device can do: of a GPU in bf16, of a CPU in `dtype`; None where not known."""
    if device.type == "cpu":
        return _measured_peak(dtype, torch.get_num_threads())
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK_BF16.items() if part in name), None)


@cache
def _measured_peak(dtype: torch.dtype, threads: int) -> float:
    """Of this process with its `threads`; in fp16, which is slow on any CPU, what fp32 does. Takes about 0.1 s."""
    dtype = torch.float32 if dtype == torch.float16 else dtype
    matrix = torch.full((GEMM_SIZE, GEMM_SIZE), 0.5, dtype=dtype)  # no random numbers: they are the training's
    fastest = float("inf")
    with torch.no_grad():
        for _ in range(1 + GEMM_REPEATS):  # the first one also chooses its kernel
            started = time.perf_counter()
            matrix @ matrix
            fastest = min(fastest, time.perf_counter() - started)
    return 2 * GEMM_SIZE**3 / fastest


def peak_memory_mb(device: torch.device) -> float:
    """The most memory this process has held so far, of the GPU where there is one, in MB of 10⁶ bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
