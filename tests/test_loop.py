"""The loop: what a step sums, skips, reports and stops for."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from training_parts import ONE_RANK, TINY, Pattern, losses, make_training

from minimind.errors import StageError
from minimind.events import EVENTS_FILE, EventWriter, read_events
from minimind.model.transformer import Transformer
from minimind.tokens.batches import IGNORE, Batch
from minimind.train.config import TrainConfig
from minimind.train.loop import Progress, Stopped, train
from minimind.train.objectives import Loss, Objective, Tensors, next_token
from minimind.train.optimizer import LossScale
from minimind.train.parallel import GradientSum
from minimind.train.stage_configs import SftConfig

CONFIG = SftConfig(tokens=1, lr=1e-2, warmup_steps=2, length=24, batch_tokens=8 * 24, micro_tokens=8 * 24, log_every=1)


def trained(config: TrainConfig, *, steps: int = 1) -> tuple[Transformer, torch.Tensor]:
    """A model after some steps, and the last gradient before clipping was undone."""
    model = Transformer(TINY)
    training = make_training(config, model, next_token(), Pattern(), total_steps=steps)
    train(training, Progress())
    return model, torch.cat([buffer.flatten() for buffer in training.gradients.buffers])


@pytest.mark.parametrize("micro_rows", [4, 2, 3])
def test_gradient_is_invariant_to_accumulation(micro_rows: int) -> None:
    """Two, four and three uneven micro-batches give the gradient of one: the loss is divided by the whole count.

    The rows hold different numbers of trained tokens, so a mean of means would differ by percents.
    """
    _, whole = trained(CONFIG.replace(grad_clip=0.0))
    _, cut = trained(CONFIG.replace(grad_clip=0.0, micro_tokens=micro_rows * 24))
    assert (whole - cut).norm() < 1e-6 * whole.norm()


def test_the_last_partial_micro_batch_is_in_the_weights() -> None:
    """Eight rows in threes, and only the last two, which are a micro-batch of their own, have anything to learn."""

    class LastRows(Pattern):
        def batch(self, step: int) -> Batch:
            whole = super().batch(step)
            labels = whole.labels_BT.copy()
            labels[:6] = IGNORE
            return replace(whole, labels_BT=labels)

    def after_a_step(rows: int) -> torch.Tensor:
        model = Transformer(TINY)
        config = CONFIG.replace(micro_tokens=rows * 24, exact=rows != 8)
        train(make_training(config, model, next_token(), LastRows(), total_steps=1), Progress())
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    untouched = torch.cat([p.detach().flatten() for p in Transformer(TINY).parameters()])
    assert (after_a_step(8) - untouched).norm() > 1e-3
    torch.testing.assert_close(after_a_step(3), after_a_step(8))


def test_clipping_limits_the_norm_and_only_then() -> None:
    """A gradient below the limit stays as it is."""
    _, free = trained(CONFIG.replace(grad_clip=0.0))
    _, clipped = trained(CONFIG.replace(grad_clip=0.01))
    _, loose = trained(CONFIG.replace(grad_clip=1e6))
    assert clipped.norm().item() == pytest.approx(0.01, rel=1e-5)
    torch.testing.assert_close(clipped * (free.norm() / 0.01), free, rtol=1e-4, atol=1e-7)
    assert torch.equal(free, loose)


def test_gradients_do_not_depend_on_the_size_of_buckets() -> None:
    """One parameter a bucket or all in one: the same numbers in other memory."""
    found = []
    for size in (1, 1 << 30):
        model = Transformer(TINY)
        gradients = GradientSum(model.parameters(), ONE_RANK, bucket_bytes=size)
        gradients.zero()
        model(torch.arange(20)[None]).square().mean().backward()
        found.append({name: p.grad.clone() for name, p in model.named_parameters()})
        total = torch.stack([g.norm() for g in found[-1].values()]).norm()
        torch.testing.assert_close(gradients.norm(), total)
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_loss_falls(optimizer: str, tmp_path: Path) -> None:
    """Thirty steps on a pattern that can be learnt."""
    config = CONFIG.replace(optimizer=optimizer)
    with EventWriter(tmp_path / EVENTS_FILE) as events:
        train(
            make_training(config, Transformer(TINY), next_token(), Pattern(), total_steps=30, events=events), Progress()
        )
    curve = losses(tmp_path)
    assert len(curve) == 30
    assert curve[-1] < curve[0] - 0.5


def test_a_line_of_the_log_has_these_figures(tmp_path: Path) -> None:
    """The names are what MLflow, the progress bar and the report look for; means are over the interval."""
    config = CONFIG.replace(log_every=4)
    with EventWriter(tmp_path / "coarse" / EVENTS_FILE) as events:
        train(
            make_training(config, Transformer(TINY), next_token(), Pattern(), total_steps=6, events=events), Progress()
        )
    lines = read_events(tmp_path / "coarse" / EVENTS_FILE)
    assert [(line.step, line.total) for line in lines] == [(4, 6), (6, 6)]
    assert set(lines[0].metrics) == {"loss", "lr", "grad_norm", "tokens", "tokens_per_second"}
    assert lines[1].metrics["tokens"] == 6 * 8 * 24
    assert lines[1].metrics["lr"] == pytest.approx(1e-3)
    with EventWriter(tmp_path / "fine" / EVENTS_FILE) as events:
        train(
            make_training(CONFIG, Transformer(TINY), next_token(), Pattern(), total_steps=6, events=events), Progress()
        )
    fine = losses(tmp_path / "fine")
    weights = [next_token().count(Pattern().batch(step)) for step in range(6)]
    mean = np.average(fine[:4], weights=weights[:4])
    assert lines[0].metrics["loss"] == pytest.approx(mean, rel=1e-5)


def failing_at(steps: set[int]) -> Objective:
    """The next-token objective, with a NaN for the batches of some steps."""
    plain = next_token()

    def function(model: Transformer, batch: Tensors) -> Loss:
        loss = plain.function(model, batch)
        return loss._replace(sum=loss.sum * (float("nan") if int(batch.items_B[0]) // 8 in steps else 1.0))

    return replace(plain, function=function)


def test_a_step_that_is_not_finite_changes_nothing(tmp_path: Path) -> None:
    """One bad batch must not poison weights or momentum, and is told of."""
    model = Transformer(TINY)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with EventWriter(tmp_path / EVENTS_FILE) as events:
        progress = Progress()
        training = make_training(CONFIG, model, failing_at({0}), Pattern(), total_steps=1, events=events)
        train(training, progress)
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
    assert not any(optimizer.state for optimizer in training.optimizers)
    assert (progress.step, progress.skipped_steps) == (1, 1)
    lines = read_events(tmp_path / EVENTS_FILE)
    assert lines[0].level == "warning"
    assert "step 1 was skipped" in lines[0].message
    assert lines[1].metrics["loss"] is None


def test_bad_steps_are_left_behind_but_not_ten_in_a_row() -> None:
    """A training that only ever skips would end well and be worthless."""
    nine = make_training(CONFIG, Transformer(TINY), failing_at(set(range(1, 10))), Pattern(), total_steps=12)
    progress = Progress()
    figures = train(nine, progress)
    assert (progress.skipped_steps, progress.bad_in_a_row) == (9, 0)
    assert np.isfinite(figures["loss"])
    ten = make_training(CONFIG, Transformer(TINY), failing_at(set(range(1, 11))), Pattern(), total_steps=12)
    with pytest.raises(StageError, match=r"10 steps in a row, up to step 11 \(batch items 80, 81"):
        train(ten, Progress())


def test_a_batch_without_trained_tokens_is_no_fault() -> None:
    """Chats whose answers are elsewhere: nothing to learn, nothing to divide by."""

    class Empty(Pattern):
        def batch(self, step: int) -> Batch:
            whole = super().batch(step)
            return replace(whole, labels_BT=np.full_like(whole.labels_BT, IGNORE))

    progress = Progress()
    train(make_training(CONFIG, Transformer(TINY), next_token(), Empty(), total_steps=2), progress)
    assert (progress.units, progress.skipped_steps) == (0, 0)


def test_fp16_finds_its_scale_and_then_trains() -> None:
    """Overflowing steps on the way down are no faults; the loss falls as in fp32, slow as fp16 is on a CPU."""
    model = Transformer(TINY, compute_dtype=torch.float16)
    progress = Progress(loss_scale=LossScale(2.0**40))
    figures = train(make_training(CONFIG, model, next_token(), Pattern(), total_steps=45), progress)
    assert progress.skipped_steps == 0
    assert 1 < progress.loss_scale.value < 2.0**40
    assert figures["loss"] < 6.0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_after_the_step_and_stops(number: signal.Signals) -> None:
    """Ctrl-C on a long training must leave it where it can go on."""
    saved: list[int] = []

    def objective_that_is_interrupted() -> Objective:
        plain = next_token()

        def function(model: Transformer, batch: Tensors) -> Loss:
            if int(batch.items_B[0]) // 8 == 2:
                os.kill(os.getpid(), number)
            return plain.function(model, batch)

        return replace(plain, function=function)

    training = make_training(
        CONFIG,
        Transformer(TINY),
        objective_that_is_interrupted(),
        Pattern(),
        total_steps=9,
        save=lambda progress: saved.append(progress.step),
    )
    before = signal.getsignal(number)
    with pytest.raises(Stopped, match="after step 3; run it again"):
        train(training, Progress())
    assert saved == [3]
    assert signal.getsignal(number) is before
