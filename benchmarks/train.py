"""The bars of training speed: this project's loop on minimind2-small against its peers as they ship, one thread.

What is compared are real ids per CPU second (or peak memory), as `benchmarks/bars.py` compares. The whole takes a
quarter of an hour per repeat on two idle cores.

    python -m benchmarks.train --repeats 5
    python -m benchmarks.train --only "LoRA step, of a full step" "bf16, × upstream"

Not here: what the variants do (`benchmarks/train_variants.py`, `benchmarks/train_overhead.py`), assertions.
"""

from pathlib import Path
from typing import Any

from benchmarks.bars import Bar, main
from benchmarks.packed_training import short_documents
from benchmarks.train_overhead import tracking
from benchmarks.train_variants import VARIANTS as TRAININGS

BARS = (
    Bar("fp32, × Hugging Face Llama in fp32", "ours_fp32", ("llama_fp32",), 0.97),
    Bar("bf16, × upstream", "ours", ("upstream",), 1.9),
    Bar("bf16 compiled, × upstream", "ours_compiled", ("upstream",), 2.1),
    Bar("bf16, × Hugging Face Llama under bf16 autocast", "ours", ("llama_bf16",), 1.25),
    Bar("bf16, share of a 1024³ product", "ours", (), 0.65, "mfu"),
    Bar("peak memory, of upstream's", "ours", ("upstream",), 0.75, "peak_mb", at_least=False),
    Bar("short documents, × upstream padded", "ours_short", ("upstream_short",), 5.0),
    Bar("LoRA step, of a full step", "ours_lora", ("ours",), 0.70, "cpu_seconds", at_least=False),
    Bar("DPO, × upstream", "ours_dpo", ("upstream_dpo",), 3.5),
    Bar("DPO with the reference's pass, × upstream", "ours_dpo_first_epoch", ("upstream_dpo",), 3.5),
    Bar("MoE layer in fp32, × upstream's", "ours_moe_fp32", ("upstream_moe",), 1.0),
    Bar("MoE layer in bf16, × upstream's", "ours_moe", ("upstream_moe",), 1.7),
    Bar("tracking, events, checkpoints, progress, of training", "tracking", (), 0.03, "share", at_least=False),
)


def with_rate(work: Any) -> Any:
    """The variant with real ids per CPU second among its figures; 0 where it learns none."""

    def run(path: Path) -> dict[str, Any]:
        figures = work(path)
        return figures | {"rate": figures["million_ids"] * 1e6 / figures["cpu_seconds"]}

    return run


VARIANTS = {name: with_rate(work) for name, work in {**TRAININGS, "tracking": tracking}.items()}
TITLE = "Training speed: minimind2-small, one thread, real ids per CPU second"


if __name__ == "__main__":
    main("benchmarks.train", TITLE, BARS, VARIANTS, shown=("rate", "cpu_seconds"), prepare=short_documents)
