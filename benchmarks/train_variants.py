"""What `benchmarks/train.py` measures: trainings of minimind2-small on one thread, this project's and its peers'.

This project's go through its own loop, with the settings a recipe has by default. Full rows are 8 × 512 random ids;
short documents fill 35 % of 512 on average; preference pairs are 4, sides of 350 tokens on average and at most 1024,
half of it the answer (of the 1,229 pairs this was taken from, the median side has 247, and half is the answer). The
first step of each is not counted: it allocates, and compiles. Rates are million real ids per CPU second.

Not here: which variant is held against which (`train.py`), the peers themselves (`peers_train.py`).
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import peers_train as peers
from benchmarks.packed_training import one_a_row, short_documents
from minimind.model.config import PRESETS
from minimind.model.lora import apply_lora
from minimind.model.moe import Experts
from minimind.model.transformer import Transformer
from minimind.tokens.batches import IGNORE, Batch, RowBatches
from minimind.tokens.token_set import TokenSet
from minimind.train import objectives
from minimind.train.config import TrainConfig
from minimind.train.loop import Progress, Training, train
from minimind.train.objectives import Objective, Tensors
from minimind.train.optimizer import make_optimizers
from minimind.train.parallel import GradientSum, Ranks
from minimind.train.throughput import flops_per_token

MODEL = PRESETS["minimind2-small"]
MOE = PRESETS["minimind-3-moe"]
ROWS, LENGTH, STEPS, PAIRS, LONGEST_SIDE = 8, 512, 2, 4, 1024
CPU = torch.device("cpu")

Figures = dict[str, Any]


class Clocked:
    """Batches whose real ids are counted, from the second on, and the CPU time since the first step ended."""

    def __init__(self, make: Callable[[int], Batch]) -> None:
        self._make, self.began, self.ids = make, 0.0, 0

    def batch(self, step: int) -> Batch:
        batch = self._make(step)
        if step:
            self.ids += int((batch.documents_BT >= 0).sum())
        return batch

    def stepped(self, *_: object) -> None:
        """To be called after every step."""
        self.began = self.began or time.process_time()

    def figures(self) -> Figures:
        return {"cpu_seconds": time.process_time() - self.began, "million_ids": self.ids / 1e6}


def full_rows(step: int) -> Batch:
    """Rows of one document each, every position a label."""
    ids = np.random.default_rng([0, step]).integers(1, MODEL.vocab_size, (ROWS, LENGTH + 1), dtype=np.int32)
    places = np.tile(np.arange(LENGTH, dtype=np.int32), (ROWS, 1))
    return Batch(ids[:, :-1].copy(), ids[:, 1:].copy(), np.zeros_like(places), places, np.arange(ROWS))


def packed_rows() -> Callable[[int], Batch]:
    token_set = TokenSet.open(short_documents().parent)
    return RowBatches(token_set, row_length=LENGTH, batch_rows=ROWS, seed=0).batch


def pairs(step: int) -> Batch:
    """Sides of preference pairs, a row to a side, as wide as the longest."""
    rng = np.random.default_rng([1, step])
    lengths = np.clip(rng.lognormal(5.5, 0.8, 2 * PAIRS), 32, LONGEST_SIDE).astype(np.int64)
    at_BT = np.tile(np.arange(lengths.max(), dtype=np.int32), (2 * PAIRS, 1))
    real_BT = at_BT < lengths[:, None]
    ids_BT = rng.integers(1, MODEL.vocab_size, at_BT.shape, dtype=np.int32) * real_BT
    answer_BT = real_BT & (at_BT >= lengths[:, None] // 2)
    sides_BT = np.where(real_BT, np.arange(2 * PAIRS, dtype=np.int32)[:, None], -1).astype(np.int32)
    items_B = np.tile(np.arange(PAIRS), 2)
    return Batch(ids_BT, np.where(answer_BT, ids_BT, IGNORE).astype(np.int32), sides_BT, at_BT, items_B)


def ours(
    make: Callable[[int], Batch],
    *,
    dtype: torch.dtype = torch.bfloat16,
    compiled: bool = False,
    lora: bool = False,
    objective: Callable[[Transformer], Objective] | None = None,
) -> Figures:
    """A training by this project's loop."""
    torch.set_num_threads(1)
    config = TrainConfig(tokens=1, batch_tokens=ROWS * LENGTH, length=LENGTH)
    model = Transformer(MODEL).set_compute_dtype(dtype)
    if lora:
        apply_lora(model, rank=16, alpha=32.0, targets=("q_proj", "o_proj"))
    if compiled:
        model.hidden = torch.compile(model.hidden)  # type: ignore[method-assign]
    ranks, batches = Ranks(0, 1, CPU), Clocked(make)
    training = Training(
        config=config,
        total_steps=1 + STEPS,
        model=model,
        objective=objective(model) if objective else objectives.next_token(),
        batches=batches,
        optimizers=make_optimizers(model, config, dtype=dtype),
        gradients=GradientSum(model.parameters(), ranks),
        ranks=ranks,
        events=None,
        observe=batches.stepped,
    )
    train(training, Progress())
    return batches.figures()


def ours_with_limit() -> Figures:
    """The default training, and its share of what matrix products reach in the same process."""
    figures = ours(full_rows)
    ids_per_second = figures["million_ids"] * 1e6 / figures["cpu_seconds"]
    limit = gemm_flops(torch.bfloat16)
    return {**figures, "mfu": ids_per_second * flops_per_token(MODEL, LENGTH) / limit, "gemm_gflops": limit / 1e9}


def gemm_flops(dtype: torch.dtype) -> float:
    """Operations per CPU second of a product of two 1024² matrices: the best of three times twenty."""
    a, b = (torch.randn(1024, 1024).to(dtype) for _ in range(2))
    best = 0.0
    for _ in range(4):
        began = time.process_time()
        for _ in range(20):
            a @ b
        best = max(best, 20 * 2 * 1024**3 / (time.process_time() - began))
    return best


def peer(
    model: nn.Module,
    make: Callable[[int], Batch],
    loss_of: Callable[[nn.Module, Tensors], Tensor],
    *,
    rate: float = 5e-4,
) -> Figures:
    """A training by upstream's loop."""
    torch.set_num_threads(1)
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
    batches = Clocked(make)
    for step in range(1 + STEPS):
        for group in optimizer.param_groups:
            group["lr"] = peers.upstream_rate(step, 1000, rate)
        peers.upstream_step(model, loss_of(model, Tensors.of(batches.batch(step), CPU)), optimizer)
        batches.stepped()
    return batches.figures()


def upstream_loss(model: nn.Module, batch: Tensors) -> Tensor:
    return peers.next_token_loss(model(batch.tokens_BT), batch.labels_BT)


def llama_loss(model: nn.Module, batch: Tensors) -> Tensor:
    return peers.next_token_loss(model(batch.tokens_BT).logits, batch.labels_BT)


def llama_autocast_loss(model: nn.Module, batch: Tensors) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return llama_loss(model, batch)


def upstream_dpo() -> Figures:
    """Upstream's: the reference at every step, all sides padded to the recipe's length, whole logits."""
    reference = peers.upstream_of(MODEL).eval().requires_grad_(False)

    def loss(model: nn.Module, batch: Tensors) -> Tensor:
        room = (0, LONGEST_SIDE - batch.tokens_BT.shape[1])
        x, y = (nn.functional.pad(t, room) for t in (batch.tokens_BT, batch.labels_BT.clamp(min=0)))
        mask = nn.functional.pad((batch.labels_BT != IGNORE).long(), room)
        return peers.upstream_dpo_loss(model, reference, x, y, mask)

    return peer(peers.upstream_of(MODEL), pairs, loss)


def ours_dpo(*, first_epoch: bool) -> Figures:
    """This project's; in the first epoch the reference's log-probabilities are still to be computed."""
    frozen = Transformer(MODEL).set_compute_dtype(torch.bfloat16)

    def objective(_: Transformer) -> Objective:
        before = objectives.Reference(torch.zeros(PAIRS), torch.zeros(PAIRS))
        plain = objectives.dpo(before, beta=0.15)
        if not first_epoch:
            return plain

        def function(model: Transformer, batch: Tensors) -> objectives.Loss:
            with torch.no_grad():
                objectives.pair_log_probs(frozen, batch)
            return plain.function(model, batch)

        return Objective(function, plain.units)

    return ours(pairs, objective=objective)


def moe_layer(layer: nn.Module, call: Callable[[Tensor], tuple[Tensor, Tensor]], dtype: torch.dtype) -> Figures:
    """Forward and backward of one layer of experts on 4,096 tokens."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    x_BTD = torch.randn(ROWS, LENGTH, MOE.hidden_size, generator=generator).to(dtype).requires_grad_()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, 0, 0.02, generator=generator)
    began = 0.0
    for step in range(1 + 2 * STEPS):
        if step == 1:
            began = time.process_time()
        out_BTD, balance = call(x_BTD)
        (out_BTD.float().sum() + balance).backward()
        layer.zero_grad(set_to_none=True)
    return {"cpu_seconds": time.process_time() - began, "million_ids": 2 * STEPS * ROWS * LENGTH / 1e6}


def upstream_moe() -> Figures:
    layer = peers.UpstreamExperts(MOE)
    return moe_layer(layer, layer, torch.float32)


def ours_moe(dtype: torch.dtype) -> Figures:
    layer = Experts(MOE)
    return moe_layer(layer, lambda x: layer(x)[:2], dtype)


VARIANTS: dict[str, Callable[[Path], Figures]] = {
    "upstream": lambda _: peer(peers.upstream_of(MODEL), full_rows, upstream_loss),
    "llama_fp32": lambda _: peer(peers.llama_of(MODEL), full_rows, llama_loss),
    "llama_bf16": lambda _: peer(peers.llama_of(MODEL), full_rows, llama_autocast_loss),
    "ours_fp32": lambda _: ours(full_rows, dtype=torch.float32),
    "ours": lambda _: ours_with_limit(),
    "ours_compiled": lambda _: ours(full_rows, compiled=True),
    "upstream_short": lambda _: peer(peers.upstream_of(MODEL), one_a_row(short_documents().parent), upstream_loss),
    "ours_short": lambda _: ours(packed_rows()),
    "ours_lora": lambda _: ours(full_rows, lora=True),
    "upstream_dpo": lambda _: upstream_dpo(),
    "ours_dpo": lambda _: ours_dpo(first_epoch=False),
    "ours_dpo_first_epoch": lambda _: ours_dpo(first_epoch=True),
    "upstream_moe": lambda _: upstream_moe(),
    "ours_moe_fp32": lambda _: ours_moe(torch.float32),
    "ours_moe": lambda _: ours_moe(torch.bfloat16),
}
