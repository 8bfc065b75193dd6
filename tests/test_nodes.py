"""Several nodes: two launchers that meet at a port make one training, and a file that is left over makes none."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file
from training_parts import TINY

from minimind.artifact import Artifact, Store
from minimind.data.documents import RowKind
from minimind.errors import ConfigError, StageError
from minimind.events import EVENTS_FILE, read_events
from minimind.stage import build
from minimind.train import launch, nodes
from minimind.train.stage_configs import PretrainConfig, SftConfig, TrainRun
from minimind.train.stages import PRETRAIN

NODES = {"nodes": 2, "rendezvous": "10.0.0.1:29500"}


def left_run(store: Path, name: str, **settings: object) -> Path:
    """A `run.json` where a stage would write it."""
    directory = store / "sft" / f".{name}.scratch"
    directory.mkdir(parents=True)
    config = SftConfig(**{"epochs": 1, "batch_tokens": 4096, **NODES, **settings})
    run = TrainRun(stage="sft", config=config, inputs={}, fingerprints={}, out_dir=directory)
    (directory / launch.RUN_FILE).write_text(run.model_dump_json())
    return directory / launch.RUN_FILE


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"nodes": 2}, '`nodes` 2 need `rendezvous` = "host:port" of the first one'),
        ({"nodes": 2, "rendezvous": "somewhere"}, "given: somewhere"),
        ({"rendezvous": "10.0.0.1:29500"}, "`rendezvous` is for several `nodes`"),
        ({**NODES, "processes": 5}, "fewer than `processes` 5 × `nodes` 2"),
    ],
)
def test_nodes_that_cannot_meet_are_refused(settings: dict[str, object], message: str) -> None:
    """Before a machine waits ten minutes for nobody."""
    with pytest.raises(ConfigError) as error:
        SftConfig.parse({"epochs": 1, "batch_tokens": 4096, **settings}, origin="recipe.toml")
    assert message in str(error.value)


def test_nodes_are_no_part_of_the_identity() -> None:
    """Where a model is trained is not what it is."""
    plain = SftConfig(epochs=1, batch_tokens=4096)
    elsewhere = plain.replace(**NODES, parallel="fsdp", checkpoint_activations=True)
    assert elsewhere.identity() == plain.identity()


def test_agents_meet_only_over_the_same_file(tmp_path: Path) -> None:
    """One that still waits for a training that was killed must not take part in the next."""
    path = left_run(tmp_path, "a")
    config = TrainRun.model_validate_json(path.read_bytes()).config
    first, second = (launch._command(config, path, node_rank=rank) for rank in (0, 1))
    differing = [(a, b) for a, b in zip(first, second, strict=True) if a != b]
    assert differing == [("0", "1")]
    assert first[first.index("--master-addr") + 1] == "10.0.0.1"
    os.utime(path, ns=(1, 1))
    again = launch._command(config, path, node_rank=1)
    assert again[again.index("--rdzv-id") + 1] == "1" != second[second.index("--rdzv-id") + 1]


def test_the_newest_training_that_wants_the_node_is_found(tmp_path: Path) -> None:
    """Older ones were killed; those of one node, or of fewer, and files of other versions are passed by."""
    assert nodes.newest_run(tmp_path, node_rank=1) is None
    old, new = left_run(tmp_path, "old"), left_run(tmp_path, "new")
    os.utime(old, ns=(5, 5))
    os.utime(new, ns=(6, 6))
    left_run(tmp_path, "alone", nodes=1, rendezvous=None)
    left_run(tmp_path, "damaged").write_text("{}")
    assert nodes.newest_run(tmp_path, node_rank=1) == (new, 6)
    assert nodes.newest_run(tmp_path, node_rank=2) is None


def test_an_agent_that_waits_for_nobody_is_stopped_by_a_newer_training(tmp_path: Path) -> None:
    """What a kill left behind would else hold this node for ten minutes."""
    old = left_run(tmp_path, "old", rendezvous=f"127.0.0.1:{free_port()}")
    os.utime(old, ns=(5, 5))
    run = TrainRun.model_validate_json(old.read_bytes())
    left_run(tmp_path, "new")
    before = psutil.Process().children()
    assert nodes._take_part(tmp_path, run, (old, 5), node_rank=1) == "sft: given up for a newer training"
    assert psutil.Process().children() == before


def test_nodes_that_did_not_meet_are_told_what_to_do(tmp_path: Path) -> None:
    """torchrun's own words are a traceback of its store."""
    run = TrainRun.model_validate_json(left_run(tmp_path, "a").read_bytes())
    (run.out_dir / launch.LOG_FILE).write_text("torch.distributed.DistStoreError: Timed out after 601 seconds\n")
    error = launch._error_of(run, 1)
    assert isinstance(error, StageError)
    assert "`nodes` 2 did not meet at 10.0.0.1:29500" in str(error) and "minimind node --rank N" in str(error)


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


SERVE = """
import sys
from pathlib import Path
from minimind.train import nodes
nodes.serve(Path(sys.argv[1]), node_rank=1, once=True, tell=lambda line: print(line, flush=True))
"""


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_launchers_train_what_one_with_two_ranks_trains(
    parallel: str, token_artifacts: dict[RowKind, Artifact], tokenizer_artifact: Artifact, tmp_path: Path
) -> None:
    """The second one is another process tree that shares nothing with the first but a directory and a port."""
    config = PretrainConfig(
        model=TINY, tokens=8 * 512, length=128, batch_tokens=512, warmup_steps=2, log_every=1, checkpoint_steps=3
    ).replace(precision="fp32", device="cpu", threads=1, processes=2, parallel=parallel)
    inputs = {"tokens": token_artifacts["pretrain"], "tokenizer": tokenizer_artifact}
    before = psutil.Process().children()
    one, _ = build(PRETRAIN, config, inputs, store=Store(tmp_path / "1"))
    store = Store(tmp_path / "2")
    command = [sys.executable, "-c", SERVE, str(store.root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as helper:
        try:
            apart = config.replace(processes=1, nodes=2, rendezvous=f"127.0.0.1:{free_port()}")
            two, _ = build(PRETRAIN, apart, inputs, store=store)
            printed, _ = helper.communicate(timeout=60)
        finally:
            helper.kill()
    assert helper.returncode == 0 and "pretrain: done" in printed
    assert two.fingerprint == one.fingerprint
    assert two.summary().figures["processes"] == 2
    weights = [load_file(artifact.dir / "model.safetensors") for artifact in (one, two)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert psutil.Process().children() == before


@pytest.mark.slow
def test_a_node_that_dies_ends_the_training_and_the_next_start_goes_on(
    token_artifacts: dict[RowKind, Artifact], tokenizer_artifact: Artifact, tmp_path: Path
) -> None:
    """SIGKILL to all of the second node: the first ends within seconds, keeps its checkpoint, and goes on alone."""
    config = PretrainConfig(
        model=TINY, tokens=400 * 512, length=128, batch_tokens=512, warmup_steps=2, log_every=1, checkpoint_steps=3
    ).replace(precision="fp32", device="cpu", threads=1, nodes=2, rendezvous=f"127.0.0.1:{free_port()}")
    inputs = {"tokens": token_artifacts["pretrain"], "tokenizer": tokenizer_artifact}
    store = Store(tmp_path)
    scratches: list[Path] = []
    helper = psutil.Popen([sys.executable, "-c", SERVE, str(store.root)], stdout=subprocess.DEVNULL)
    script = f"""
import os, signal, sys, time, psutil
from pathlib import Path
helper, directory = psutil.Process({helper.pid}), Path(sys.argv[1])
while len(list(directory.glob("checkpoints/step-*"))) < 2:
    time.sleep(0.05)
for process in [helper, *helper.children(recursive=True)]:
    process.send_signal(signal.SIGKILL)
"""

    def kill_later(scratch: Path) -> None:
        scratches.append(scratch)
        killers.append(subprocess.Popen([sys.executable, "-c", script, str(scratch)]))

    killers: list[subprocess.Popen[bytes]] = []
    with pytest.raises(StageError, match="pretrain: "):
        build(PRETRAIN, config, inputs, store=store, on_start=kill_later)
    killers[0].wait()
    helper.wait()
    ended = time.time()
    assert list(scratches[0].glob("checkpoints/step-*"))
    assert ended - max(path.stat().st_mtime for path in scratches[0].glob("checkpoints/step-*")) < 60
    alone, _ = build(PRETRAIN, config.replace(nodes=1, rendezvous=None), inputs, store=store)
    messages = [event.message for event in read_events(alone.dir / EVENTS_FILE)]
    assert any(message.startswith("goes on after step ") for message in messages)
