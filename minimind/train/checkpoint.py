"""Checkpoints: everything a killed training needs to go on as if nothing had happened.

    checkpoints/step-00000123/
        model.safetensors       the trained parameters, fp32
        optimizer.safetensors   `parameter name|what` → tensor
        rng.safetensors         torch's generator state of every rank
        checkpoint.json         step and sums, events offset, sha256 of the files above

Where ranks hold different rows (`parallel`) each writes its own, `optimizer-00001-of-00002.safetensors`, and a tensor
that is not whole has its rows in its name: `model.norm.weight[0:256]|exp_avg`. Reading goes by rows, so any number of
ranks of any kind of parallelism reads what any other wrote.

No pickle. A checkpoint is written under another name, flushed, and appears by one rename; the two newest are kept. A
disk that is full costs the new checkpoint and nothing else. Loading proves the sums first: a flipped bit costs a
checkpoint, not a training. Not here: frozen weights (they come from the input), the data position (it is the step).
"""

import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from minimind import runtime
from minimind.errors import ArtifactError, MissingError
from minimind.failpoints import reach
from minimind.proven import Proven
from minimind.train.loop import Progress
from minimind.train.optimizer import LossScale
from minimind.train.parallel import Ranks
from minimind.train.sharding import Layout, Span

HEADER_FILE = "checkpoint.json"
KEEP = 2
DIGEST_BYTES = 1024
"""Room for what a rank says of its three files at most; gathered tensors are of one size."""


class Header(Proven):
    """`checkpoint.json`."""

    format_version: int = 1
    run: str
    """Digest of what is trained: settings and inputs."""
    world_size: int
    events_offset: int
    events_sha256: str = ""
    """Of so much of `events.jsonl`; empty in checkpoints from before there was any."""
    progress: dict[str, Any]
    files: dict[str, str]
    """File name → sha256."""


@dataclass(frozen=True)
class Found:
    """A proven checkpoint on disk."""

    path: Path
    header: Header

    def progress(self) -> Progress:
        values = dict(self.header.progress)
        return Progress(**{**values, "loss_scale": LossScale(**values["loss_scale"])})


def save_checkpoint(
    directory: Path,
    progress: Progress,
    *,
    run: str,
    model: nn.Module,
    optimizers: Sequence[Optimizer],
    ranks: Ranks,
    events_offset: int,
    events_sha256: str = "",
    layout: Layout | None = None,
) -> str | None:
    """Write a checkpoint below `directory`; every rank calls it. None, or why there is none now, on the first rank.

    Without a `layout` the first rank writes everything. What could not be written is removed; older ones stay.
    """
    layout = layout or Layout.whole(model)
    generators = ranks.gather(torch.get_rng_state())
    target = _path(directory, progress.step)
    scratch = directory / f".{target.name}"
    problem = _attempt(lambda: _clear(directory, scratch)) if ranks.is_first else None
    ranks.from_first(0)  # the directory is there
    contents = _contents(layout, optimizers, ranks)
    if ranks.is_first:
        contents["rng.safetensors"] = {f"rank {rank}": state for rank, state in enumerate(generators)}
    digests: dict[str, str] = {}
    problem = problem or _attempt(lambda: digests.update(_write(scratch, contents)))
    files, all_well = _gather_digests(digests, ranks, well=problem is None)
    if not ranks.is_first:
        return None
    if all_well:
        values = {"progress": asdict(progress), "files": files, "events_offset": events_offset}
        values["events_sha256"] = events_sha256
        header = Header(run=run, world_size=ranks.size, **values)
        problem = _attempt(lambda: _seal(scratch, target, header))
    if all_well and problem is None:
        return None
    shutil.rmtree(scratch, ignore_errors=True)
    why = problem or "another rank could not write its part"
    return f"no checkpoint after step {progress.step}, the one before is kept: {why}"


def find_checkpoint(directory: Path, *, run: str) -> tuple[Found | None, list[str]]:
    """The newest checkpoint of `run` whose bytes prove whole, and why newer ones were passed over."""
    passed_over = []
    for path in _all(directory):
        try:
            return Found(path, _prove(path, run)), passed_over
        except ArtifactError as error:
            passed_over.append(f"{path.name} is passed over: {error}")
    return None, passed_over


def open_checkpoint(directory: Path, step: int) -> Found:
    """The checkpoint of `step`, already proven by another rank."""
    path = _path(directory, step)
    return Found(path, Header.model_validate_json((path / HEADER_FILE).read_bytes()))


def load_checkpoint(
    found: Found, *, model: nn.Module, optimizers: Sequence[Optimizer], ranks: Ranks, layout: Layout | None = None
) -> Progress:
    """Put a checkpoint's weights, optimizer state and generator state in place. Every rank calls it."""
    layout = layout or Layout.whole(model)
    weights, state = Stored(found.path, "model"), Stored(found.path, "optimizer")
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    if weights.names != trained or not state.names <= trained:
        odd = sorted((weights.names ^ trained) | (state.names - trained))[0]
        raise ArtifactError(f"{found.path}: is of another model ({odd}); delete {found.path.parent}")
    with torch.no_grad():
        for piece in layout.weights:
            piece.tensor.copy_(weights.read(piece.name, "", piece.start, piece.stop))
    owners = {p: optimizer for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    for piece in layout.stepped:
        for what in state.kinds(piece.name):
            value = state.read(piece.name, what, piece.start, piece.stop)
            owners[piece.tensor].state[piece.tensor][what] = value.to(piece.tensor.device)
    generators = load_file(found.path / "rng.safetensors")
    if f"rank {ranks.rank}" in generators:  # there may be more ranks than before
        torch.set_rng_state(generators[f"rank {ranks.rank}"])
    return found.progress()


class Stored:
    """The tensors of one kind (`model`, `optimizer`) of a checkpoint, put together from whatever files they are in."""

    def __init__(self, path: Path, stem: str) -> None:
        self._path = path
        self._places: dict[tuple[str, str], dict[Span | None, tuple[Any, str]]] = {}
        for file_path in sorted(path.glob(f"{stem}*.safetensors")):
            file = safe_open(file_path, framework="pt")
            for key in file.keys():  # noqa: SIM118  (no mapping)
                name, span, what = _parse(key)
                self._places.setdefault((name, what), {})[span] = (file, key)
        self.names = {name for name, _ in self._places}

    def kinds(self, name: str) -> list[str]:
        """What there is of a parameter: `exp_avg`, `step`, …"""
        return sorted(what for of, what in self._places if of == name)

    def read(self, name: str, what: str, start: int, stop: int) -> Tensor:
        """Rows from start to stop; a tensor without rows whole."""
        places = self._places[name, what]
        if None in places:
            file, key = places[None]
            whole = file.get_slice(key)
            return whole[start:stop] if whole.get_shape() else file.get_tensor(key)
        parts, at = [], start
        for (first, last), (file, key) in sorted(places.items(), key=lambda item: item[0]):
            if first <= at < min(last, stop):
                parts.append(file.get_slice(key)[at - first : min(last, stop) - first])
                at = min(last, stop)
        if at < stop:
            raise ArtifactError(f"{self._path}: lacks rows of {name}; delete {self._path}")
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def _contents(layout: Layout, optimizers: Sequence[Optimizer], ranks: Ranks) -> dict[str, dict[str, Tensor]]:
    """File name → tensors that this rank writes: its rows, and what is whole everywhere on the first rank alone."""
    shard = f"-{ranks.rank + 1:05d}-of-{ranks.size:05d}.safetensors"
    contents = {}
    for stem, tensors, whole in (
        ("model", layout.weight_tensors(), layout.whole_weights),
        ("optimizer", layout.state_tensors(optimizers), layout.whole_state),
    ):
        if not whole:
            contents[f"{stem}{shard}"] = tensors
        elif ranks.is_first:
            contents[f"{stem}.safetensors"] = tensors
    return contents


def _parse(key: str) -> tuple[str, Span | None, str]:
    match = re.fullmatch(r"(.*?)(?:\[(\d+):(\d+)\])?(?:\|(\w+))?", key)
    assert match is not None
    name, start, stop, what = match.groups()
    return name, None if start is None else (int(start), int(stop)), what or ""


def _attempt(action: Callable[[], None]) -> str | None:
    """None, or why the disk would not have it."""
    try:
        action()
    except (OSError, SafetensorError) as error:
        return str(error)
    return None


def _clear(directory: Path, scratch: Path) -> None:
    for old in directory.glob(".step-*"):  # of a save that a kill broke off
        shutil.rmtree(old)
    scratch.mkdir(parents=True)


def _write(scratch: Path, contents: dict[str, dict[str, Tensor]]) -> dict[str, str]:
    """File name → sha256, once all are on the disk."""
    for name, tensors in contents.items():
        save_file({key: tensor.cpu().contiguous() for key, tensor in tensors.items()}, scratch / name)
        reach("checkpoint.write")
        runtime.fsync_path(scratch / name)
    return {name: runtime.file_sha256(scratch / name) for name in contents}


def _gather_digests(digests: dict[str, str], ranks: Ranks, *, well: bool) -> tuple[dict[str, str], bool]:
    """The digests of all ranks' files, and whether every rank has written its own."""
    text = json.dumps({"digests": digests, "well": well}).encode().ljust(DIGEST_BYTES)
    assert len(text) == DIGEST_BYTES
    parts = ranks.gather(torch.frombuffer(bytearray(text), dtype=torch.uint8))
    told = [json.loads(bytes(part.tolist())) for part in parts]
    files = {name: digest for one in told for name, digest in one["digests"].items()}
    return files, all(one["well"] for one in told)


def _seal(scratch: Path, target: Path, header: Header) -> None:
    """Make the checkpoint in `scratch` the one of its step, and remove those that are too old."""
    header.write(scratch / HEADER_FILE)
    runtime.fsync_path(scratch)
    shutil.rmtree(target, ignore_errors=True)
    reach("checkpoint.rename")
    scratch.rename(target)
    reach("checkpoint.renamed")
    runtime.fsync_path(target.parent)
    for old in _all(target.parent)[KEEP:]:
        shutil.rmtree(old, ignore_errors=True)  # the next save tries again


def _prove(path: Path, run: str) -> Header:
    header = prove_checkpoint(path)
    if header.run != run:
        raise ArtifactError("it is of another training")
    return header


def prove_checkpoint(path: Path) -> Header:
    """What a checkpoint says of itself, its bytes proven. Raises ArtifactError."""
    try:
        header = Header.read_json(path / HEADER_FILE, remedy="an older checkpoint is taken")
    except MissingError:
        raise ArtifactError(f"its {HEADER_FILE} is missing") from None
    for name, digest in header.files.items():
        if not (path / name).is_file() or runtime.file_sha256(path / name) != digest:
            raise ArtifactError(f"{name} is missing or damaged")
    return header


def _path(directory: Path, step: int) -> Path:
    return directory / f"step-{step:08d}"


def _all(directory: Path) -> list[Path]:
    """The checkpoints there, newest first."""
    if not directory.is_dir():
        return []
    return sorted((p for p in directory.iterdir() if re.fullmatch(r"step-\d{8,}", p.name)), reverse=True)
