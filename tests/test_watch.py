"""What is watched: spikes, update norms, the load of experts, where a training is, the peak of a CPU."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from training_parts import ONE_RANK, TINY, VOCABULARY, Pattern, make_training

from minimind.errors import ConfigError
from minimind.events import EVENTS_FILE, Event, EventWriter, read_events
from minimind.model.config import ModelConfig, count_active_parameters
from minimind.model.transformer import Transformer
from minimind.tokens.batches import Batch
from minimind.train.config import TrainConfig
from minimind.train.loop import Progress, train
from minimind.train.objectives import next_token
from minimind.train.optimizer import make_optimizers, set_learning_rate
from minimind.train.stage_configs import SftConfig, TrainRun
from minimind.train.throughput import flops_per_token, peak_flops, training_flops_per_token
from minimind.train.watch import UpdateNorm, Watch, expert_figures, rows_of, spike_above

CONFIG = SftConfig(tokens=1, lr=1e-2, warmup_steps=2, length=24, batch_tokens=8 * 24, micro_tokens=8 * 24, log_every=4)


class Broken(Pattern):
    """The pattern, but for the batches of some steps, whose ids have no pattern at all."""

    def __init__(self, *steps: int) -> None:
        super().__init__()
        self._broken = steps

    def batch(self, step: int) -> Batch:
        batch = super().batch(step)
        if step not in self._broken:
            return batch
        rng = np.random.default_rng(step)
        noise = rng.integers(1, VOCABULARY, batch.labels_BT.shape)
        return replace(batch, labels_BT=np.where(batch.labels_BT >= 0, noise, batch.labels_BT))


def watched(
    directory: Path,
    *,
    batches: Pattern | None = None,
    shape: ModelConfig = TINY,
    config: TrainConfig = CONFIG,
    steps: int,
    progress: Progress | None = None,
) -> tuple[list[Event], Progress]:
    """The events of a short training, and where it ended."""
    model, progress, batches = Transformer(shape), progress or Progress(), batches or Pattern()
    with EventWriter(directory / EVENTS_FILE) as events:
        training = make_training(config, model, next_token(), batches, total_steps=steps, events=events)
        run = TrainRun(stage="sft", config=config, inputs={}, fingerprints={}, out_dir=directory)
        sizes = {"total_steps": steps, "steps_per_epoch": 8}
        watch = Watch(run, model, training.optimizers, batches, ONE_RANK, events, progress, **sizes)
        train(replace(training, describe=watch.describe, observe=watch.observe), progress)
    return read_events(directory / EVENTS_FILE), progress


def test_every_line_of_the_log_says_how_the_training_is(tmp_path: Path) -> None:
    """Names that MLflow draws curves of; the last line comes though 10 is no multiple of 4."""
    events, _ = watched(tmp_path, steps=10)
    steps = [event for event in events if event.kind == "step"]
    assert [event.step for event in steps] == [4, 8, 10]
    always = {"loss", "lr", "grad_norm", "update_norm", "tokens", "tokens_per_second", "mfu", "memory_mb"}
    assert all(set(event.metrics) == always | {"epoch", "done", "eta_seconds"} for event in steps)
    assert [event.metrics["epoch"] for event in steps] == [0.5, 1.0, 1.25]
    assert [event.metrics["done"] for event in steps] == [0.4, 0.8, 1.0]
    assert steps[-1].metrics["eta_seconds"] == 0.0
    assert all((event.metrics["eta_seconds"] or 0) > 0 for event in steps[:-1])
    assert all(0 < (event.metrics["mfu"] or 0) < 1 for event in steps)


def test_the_update_norm_is_that_of_the_weights_change() -> None:
    """Measured from outside on all weights at once, two optimizers together; only where it is asked for."""
    model, wanted = Transformer(TINY), [True]
    optimizers = make_optimizers(model, CONFIG.replace(optimizer="muon"), dtype=torch.float32)
    update = UpdateNorm(optimizers, lambda: wanted[0])
    set_learning_rate(optimizers, 1e-2)
    for asked in (True, False, True):
        wanted[0] = asked
        before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
        model(torch.arange(12)[None]).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()
        after = torch.cat([p.detach().flatten() for p in model.parameters()])
        figures = update.figures(ONE_RANK)
        assert figures == (
            {"update_norm": pytest.approx(float((after - before).norm() / after.norm()), rel=1e-4)} if asked else {}
        )


def test_a_broken_batch_is_told_of_with_its_step_and_rows(tmp_path: Path) -> None:
    """One of forty batches teaches nonsense: exactly that step is named, and the summary counts it."""
    events, progress = watched(tmp_path, batches=Broken(30), steps=40)
    said = [event.message for event in events if event.level == "warning"]
    assert len(said) == progress.loss_spikes == 1
    assert progress.last_spike == 31
    assert said[0].startswith("step 31: the loss rose to")
    assert "its rows: 240, 241, " in said[0]  # Pattern's items of step 30
    assert "minimind trace sft --step 31" in said[0]


def test_a_training_without_faults_is_left_in_peace(tmp_path: Path) -> None:
    """A warning that is always there is not read."""
    events, progress = watched(tmp_path, steps=60)
    assert progress.loss_spikes == 0
    assert not [event for event in events if event.kind == "log"]


def test_several_spikes_in_a_row_are_one_message(tmp_path: Path) -> None:
    """The loss needs some steps to come down again; each is counted, the first is told of."""
    events, progress = watched(tmp_path, batches=Broken(30, 31, 33), steps=40)
    assert progress.loss_spikes == 3
    assert len([event for event in events if event.level == "warning"]) == 1


def test_spikes_are_the_same_after_a_resume(tmp_path: Path) -> None:
    """What is usual is remembered in the progress, which a checkpoint keeps: it must not start anew."""
    whole, ended = watched(tmp_path / "whole", batches=Broken(20), steps=24)
    first = Progress(recent_losses=ended.recent_losses[:20])
    watch_only, seen = Broken(20), [e.message for e in whole if e.level == "warning"]
    run = TrainRun(stage="sft", config=CONFIG, inputs={}, fingerprints={}, out_dir=tmp_path)
    with EventWriter(tmp_path / EVENTS_FILE) as events:
        sizes = {"total_steps": 24, "steps_per_epoch": 8}
        watch = Watch(run, Transformer(TINY), [], watch_only, ONE_RANK, events, first, **sizes)
        first.step = 20
        watch.observe(first, watch_only.batch(20), ended.recent_losses[20])
    assert [event.message for event in read_events(tmp_path / EVENTS_FILE)] == seen


def test_what_is_usual_follows_from_level_and_differences() -> None:
    """By hand: the last eight have the median 1.95, every difference is 0.1; a floor of a tenth of the level."""
    assert spike_above([1.0] * 15) == math.inf
    losses = [2.0, 2.1] * 4 + [2.0, 1.9] * 4
    assert spike_above(losses) == pytest.approx(1.95 + 6 * 1.4826 / math.sqrt(2) * 0.1)
    assert spike_above([0.6931] * 40) == pytest.approx(0.6931 * 1.1)
    falling = [10 - 0.2 * step for step in range(40)]
    assert spike_above(falling) < falling[-1] + 2.0  # that it falls makes nothing usual that is far above


def test_the_load_of_experts_is_watched(tmp_path: Path) -> None:
    """A router that sends everything to one expert, or drops, must show."""
    moe = TINY.replace(num_experts=4, experts_per_token=2, balance_coefficient=0.01)
    events, _ = watched(tmp_path, shape=moe, steps=4)
    figures = events[-1].metrics
    assert 0 <= (figures["expert_min_share"] or 0) <= 0.25 <= (figures["expert_max_share"] or 0) <= 0.5
    assert 0 < (figures["expert_entropy"] or 0) <= 1
    assert figures["expert_dropped_share"] == 0
    even, collapsed, dropping = torch.full((2, 4), 0.25), torch.eye(4)[:2], torch.full((2, 4), 0.2)
    assert expert_figures(even)["expert_entropy"] == pytest.approx(1.0)
    assert expert_figures(collapsed) == {
        "expert_max_share": 1.0,
        "expert_min_share": 0.0,
        "expert_entropy": 0.0,
        "expert_dropped_share": 0.0,
    }
    assert expert_figures(dropping)["expert_dropped_share"] == pytest.approx(0.2)
    assert expert_figures(dropping)["expert_max_share"] == pytest.approx(0.25)


def test_watching_changes_no_weight(tmp_path: Path) -> None:
    """Copies and an extra forward pass on the side: the same weights to the bit as without."""
    moe = TINY.replace(num_experts=4, experts_per_token=1, balance_coefficient=0.01)
    models = []
    for observed in (True, False):
        model, progress = Transformer(moe), Progress()
        training = make_training(CONFIG, model, next_token(), Pattern(), total_steps=9)
        run = TrainRun(stage="sft", config=CONFIG, inputs={}, fingerprints={}, out_dir=tmp_path)
        if observed:
            sizes = {"total_steps": 9, "steps_per_epoch": 8}
            watch = Watch(run, model, training.optimizers, Pattern(), ONE_RANK, None, progress, **sizes)
            training = replace(training, describe=watch.describe, observe=watch.observe)
        train(training, progress)
        models.append(model)
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(one, other)


def test_the_peak_of_a_cpu_is_measured_without_random_numbers() -> None:
    """A draw from torch's generator would make a resumed training differ."""
    before = torch.get_rng_state()
    peak = peak_flops(torch.device("cpu"), torch.float32)
    assert peak and peak > 1e8
    assert torch.equal(before, torch.get_rng_state())
    assert peak_flops(torch.device("cpu"), torch.float32) == peak  # measured once
    assert peak_flops(torch.device("meta")) is None


def test_operations_of_a_training_follow_from_its_passes() -> None:
    """Forward, backward to inputs and to weights cost a third each; frozen weights save one, a teacher adds one."""
    whole = flops_per_token(TINY, 128)
    assert whole == 6 * count_active_parameters(TINY) + 6 * 2 * 4 * 8 * 128
    assert training_flops_per_token(TINY, 128) == whole
    assert training_flops_per_token(TINY, 128, adapted=True) == pytest.approx(whole * 2 / 3)
    assert training_flops_per_token(TINY, 128, teacher=TINY) == pytest.approx(whole * 4 / 3)


def test_rows_are_named_once_and_not_without_end() -> None:
    """A pair stands in a batch once for each side."""
    assert rows_of(Pattern(rows=3, pairs=True).batch(2)) == "6, 7, 8"
    assert rows_of(Pattern(rows=20).batch(0)).endswith("15, …")


def test_decay_settings_need_their_schedule() -> None:
    """A setting that would be ignored is a mistake."""
    with pytest.raises(
        ConfigError, match='`decay_fraction` and `decay_shape` are for `schedule` = "wsd", not "cosine"'
    ):
        TrainConfig.parse({"epochs": 1, "decay_fraction": 0.1}, origin="recipe")
