"""What a training costs a machine: floating-point operations, their share of the peak, memory.

The peaks are the makers' figures for dense bf16 products. Not here: estimates before a run.
"""

import resource
import sys

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


def flops_per_token(config: ModelConfig, length: int) -> float:
    """Of a training step: 6 per active parameter, and causal attention over rows of `length`.

    The embedding is counted as the output projection it is tied to. Rows of several documents
    need less attention than this.
    """
    attention = 6 * config.num_layers * config.num_heads * config.head_size * length
    untied = 0 if config.tie_embeddings else config.vocab_size * config.hidden_size
    return 6.0 * (count_active_parameters(config) - untied) + attention


def peak_flops(device: torch.device) -> float | None:
    """What the device can do per second in bf16; None where it is not known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK_BF16.items() if part in name), None)


def peak_memory_mb(device: torch.device) -> float:
    """The most memory this process has held so far, of the GPU where there is one, in MB of 10⁶ bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
