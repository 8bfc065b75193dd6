"""A training that was killed and goes on is the training that was not, to the bit: weights and log.

The fast tests run the rank's own function in this process and break it off between two steps; the
slow ones start the real stage and send SIGKILL to every process of it.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch
from resume_parts import COMMON, Tokens, assert_equal_results, figures_of, interrupted, run_of
from training_parts import ONE_RANK, TINY

from minimind.artifact import Artifact, Store
from minimind.errors import ConfigError
from minimind.events import EVENTS_FILE, EventWriter, read_events
from minimind.stage import build
from minimind.train import job
from minimind.train.config import TrainConfig
from minimind.train.stage_configs import DistillConfig, DpoConfig, LoraConfig, PretrainConfig, SftConfig, TrainRun
from minimind.train.stages import PRETRAIN


@pytest.mark.parametrize(
    ("stage", "config"),
    [
        ("pretrain", PretrainConfig(model=TINY, optimizer="muon", **COMMON)),
        ("sft", SftConfig(**COMMON)),
        ("sft", SftConfig(**COMMON, mix={"pretrain": 0.3}, empty_think_share=0.5)),
        ("sft", SftConfig(**COMMON, system_prompts=("Be kind.",), system_share=0.5)),
        ("dpo", DpoConfig(**COMMON | {"tokens": 12 * 2400, "batch_tokens": 2400, "micro_tokens": 1600, "lr": 1e-3})),
        ("lora", LoraConfig(rank=2, **COMMON)),
        ("distill", DistillConfig(**COMMON)),
    ],
)
def test_a_broken_off_training_goes_on_to_the_bit(
    stage: str,
    config: TrainConfig,
    base: Path,
    token_artifacts: Tokens,
    tokenizer_artifact: Artifact,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Broken off in the middle of a log interval, two steps after a checkpoint, which are done again."""
    paths = tmp_path / "whole", tmp_path / "broken"
    runs = [run_of(stage, config, path, token_artifacts, tokenizer_artifact, base) for path in paths]
    for path in paths:
        path.mkdir()
    job.run_rank(runs[0], ONE_RANK)
    interrupted(runs[1], after=7, monkeypatch=monkeypatch)
    assert [p.name for p in (paths[1] / "checkpoints").iterdir()] == ["step-00000005"]
    torch.manual_seed(99)  # nothing may hang on the state of this process
    job.run_rank(runs[1], ONE_RANK)
    messages = [event.message for event in read_events(paths[1] / EVENTS_FILE)]
    assert "goes on after step 5" in messages
    assert_equal_results(*paths)


def test_the_shares_of_a_mixture_are_told_at_both_ends_and_in_the_summary(
    base: Path, token_artifacts: Tokens, tokenizer_artifact: Artifact, tmp_path: Path
) -> None:
    """Planned and as they were, by rows and by tokens."""
    config = SftConfig(**COMMON, mix={"pretrain": 0.25})
    job.run_rank(run_of("sft", config, tmp_path, token_artifacts, tokenizer_artifact, base), ONE_RANK)
    events = read_events(tmp_path / EVENTS_FILE)
    first, last = [event.message for event in events if event.message.startswith("mixture:")]
    assert "pretrain 25.00% of the rows" in first and "so far" not in first
    assert "so far" in last
    figures = json.loads((tmp_path / "training.json").read_text())["figures"]
    assert figures["mix_pretrain_rows"] == 0.25 and figures["mix_chat_rows"] == 0.75
    for which in ("tokens", "tokens_planned"):
        assert figures[f"mix_pretrain_{which}"] + figures[f"mix_chat_{which}"] == pytest.approx(1, abs=1e-5)
        assert figures[f"mix_pretrain_{which}"] == pytest.approx(0.25, abs=0.15)


def test_a_mixture_reads_the_inputs_it_names_and_no_others(
    base: Path, token_artifacts: Tokens, tokenizer_artifact: Artifact, tmp_path: Path
) -> None:
    """A token set that is given and not read would still be in the fingerprint."""
    inputs = {"tokens": token_artifacts["pretrain"], "tokenizer": tokenizer_artifact}
    config = PretrainConfig(model=TINY, **COMMON)
    with pytest.raises(ConfigError, match="read tokens_chat; it was given none"):
        build(PRETRAIN, config.replace(mix={"chat": 0.1}), inputs, store=Store(tmp_path))
    with pytest.raises(ConfigError, match="was given tokens_chat"):
        build(PRETRAIN, config, {**inputs, "tokens_chat": token_artifacts["chat"]}, store=Store(tmp_path))
    run = run_of("sft", SftConfig(**COMMON, mix={"pretrain": 0.2}), tmp_path, token_artifacts, tokenizer_artifact, base)
    wrong = run.replace(inputs={**run.inputs, "tokens_pretrain": token_artifacts["chat"].dir})
    with pytest.raises(ConfigError, match="has chat rows"):
        job.run_rank(wrong, ONE_RANK)


def test_the_older_checkpoint_serves_when_the_newest_is_damaged(
    base: Path,
    token_artifacts: Tokens,
    tokenizer_artifact: Artifact,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The result is the same; only time is lost, and the log says so."""
    config = PretrainConfig(model=TINY, **COMMON).replace(checkpoint_steps=2)
    paths = tmp_path / "whole", tmp_path / "broken"
    runs = [run_of("pretrain", config, path, token_artifacts, tokenizer_artifact, base) for path in paths]
    for path in paths:
        path.mkdir()
    job.run_rank(runs[0], ONE_RANK)
    interrupted(runs[1], after=7, monkeypatch=monkeypatch)
    newest = paths[1] / "checkpoints" / "step-00000006" / "optimizer.safetensors"
    newest.write_bytes(newest.read_bytes()[:-7])
    job.run_rank(runs[1], ONE_RANK)
    events = read_events(paths[1] / EVENTS_FILE)
    assert [e.message for e in events if e.level == "warning"] == [
        "step-00000006 is passed over: optimizer.safetensors is missing or damaged"
    ]
    assert "goes on after step 4" in [e.message for e in events]
    assert_equal_results(*paths)


SCRIPT = """
import sys
from pathlib import Path
from minimind.train.stage_configs import TrainRun
from minimind.train.launch import launch
launch(TrainRun.model_validate_json(Path(sys.argv[1]).read_bytes()))
"""


def start_and_kill(run: TrainRun, how: signal.Signals, *, after_step: int, whom: str) -> None:
    """Start the launcher in a process of its own and kill once a step is logged; all must be gone at the end."""
    plan = run.out_dir.with_suffix(".json")
    plan.write_text(run.model_dump_json())
    launcher = psutil.Popen([sys.executable, "-c", SCRIPT, str(plan)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not [step for step, _ in figures_of(run.out_dir) if step >= after_step]:
        assert time.monotonic() < deadline, (run.out_dir / "ranks.log").read_text()
        assert launcher.poll() is None
        time.sleep(0.02)
    tree = [launcher, *launcher.children(recursive=True)]
    assert len(tree) == 2 + run.config.processes
    for process in tree if whom == "all" else [launcher]:
        process.send_signal(how)
    _, alive = psutil.wait_procs(tree, timeout=30)
    assert alive == []


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_real_kill_9_and_a_new_start_give_the_same_bits(
    processes: int, token_artifacts: Tokens, tokenizer_artifact: Artifact, tmp_path: Path
) -> None:
    """SIGKILL to the launcher, the agent and all ranks at once, in mid-training, twice."""
    config = PretrainConfig(model=TINY, **COMMON).replace(
        tokens=100 * 800, processes=processes, checkpoint_steps=7, log_every=2, validate_every=50
    )
    paths = tmp_path / "whole", tmp_path / "killed"
    runs = [run_of("pretrain", config, path, token_artifacts, tokenizer_artifact, tmp_path) for path in paths]
    for path in paths:
        path.mkdir()
    subprocess.run([sys.executable, "-c", SCRIPT, str(plan_of(runs[0]))], check=True)
    for step in (20, 60):
        start_and_kill(runs[1], signal.SIGKILL, after_step=step, whom="all")
        assert list((paths[1] / "checkpoints").iterdir())
    subprocess.run([sys.executable, "-c", SCRIPT, str(plan_of(runs[1]))], check=True)
    messages = [event.message for event in read_events(paths[1] / EVENTS_FILE)]
    assert any(message.startswith("goes on after step") for message in messages)
    assert_equal_results(*paths)


def plan_of(run: TrainRun) -> Path:
    plan = run.out_dir.with_suffix(".json")
    plan.write_text(run.model_dump_json())
    return plan


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_nothing_outlives_a_killed_launcher_and_the_last_step_is_saved(
    processes: int, token_artifacts: Tokens, tokenizer_artifact: Artifact, tmp_path: Path
) -> None:
    """SIGKILL to the launcher alone: the agent hears of it, ranks save and go. Orphans would train on for hours."""
    config = PretrainConfig(model=TINY, **COMMON).replace(
        tokens=10_000 * 800, processes=processes, checkpoint_steps=None, checkpoint_seconds=3600.0, log_every=1
    )
    out_dir = tmp_path / "run"
    out_dir.mkdir()
    run = run_of("pretrain", config, out_dir, token_artifacts, tokenizer_artifact, tmp_path)
    start_and_kill(run, signal.SIGKILL, after_step=5, whom="launcher")
    (checkpoint,) = (out_dir / "checkpoints").iterdir()
    saved = json.loads((checkpoint / "checkpoint.json").read_text())["progress"]["step"]
    assert saved == figures_of(out_dir)[-1][0] >= 5


@pytest.mark.slow
def test_a_stage_that_is_interrupted_is_resumed_by_the_next_build(
    token_artifacts: Tokens, tokenizer_artifact: Artifact, tmp_path: Path
) -> None:
    """The whole way: Ctrl-C in `build`, the scratch directory stays, the next `build` seals the artifact."""
    config = PretrainConfig(model=TINY, **COMMON).replace(tokens=400 * 800, log_every=1, checkpoint_steps=None)
    inputs = {"tokens": token_artifacts["pretrain"], "tokenizer": tokenizer_artifact}
    store = Store(tmp_path)
    scratches: list[Path] = []

    def watch(events: Path) -> None:
        while not events.exists() or events.read_text().count("step") < 12:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    def interrupt_soon(scratch: Path) -> None:
        scratches.append(scratch)
        threading.Thread(target=watch, args=(scratch / EVENTS_FILE,), daemon=True).start()

    before, handler = psutil.Process().children(), signal.signal(signal.SIGINT, signal.default_int_handler)
    try:  # a shell's `&` has SIGINT ignored
        with pytest.raises(KeyboardInterrupt):
            build(PRETRAIN, config, inputs, store=store, on_start=interrupt_soon)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert psutil.Process().children() == before
    (checkpoint,) = (scratches[0] / "checkpoints").iterdir()
    artifact, reused = build(PRETRAIN, config, inputs, store=store)
    assert not reused
    messages = [event.message for event in read_events(artifact.dir / EVENTS_FILE)]
    assert f"goes on after step {int(checkpoint.name.removeprefix('step-'))}" in messages
    assert artifact.summary().figures["steps"] == max(step for step, _ in figures_of(artifact.dir))
    assert not (artifact.dir / "checkpoints").exists()
    assert not (artifact.dir / "run.json").exists()


def test_an_event_stream_is_cut_back_to_the_checkpoint(tmp_path: Path) -> None:
    """Lines of steps that are done again must not be there twice."""
    with EventWriter(tmp_path / EVENTS_FILE) as events:
        events.step(1, 3, {"loss": 1.0})
        offset = events.offset()
        events.step(2, 3, {"loss": 2.0})
    with EventWriter(tmp_path / EVENTS_FILE, keep_bytes=offset) as events:
        events.step(2, 3, {"loss": 2.5})
    assert [step for step, _ in figures_of(tmp_path)] == [1, 2]
