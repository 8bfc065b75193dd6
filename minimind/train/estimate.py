"""What a training will cost on this machine: four of its steps are run, and the rest is multiplied.

It is the training itself that runs, with its processes, threads, precision and parallelism, on a small token set like
its own (`stand_ins.py`): started by the same launcher, with the same loop, looking at held-out rows after its second
step and saving after its third. What it writes to its event stream says how long everything took. The first step warms
up. So an estimate also finds what would stop the training: too little memory, a wrong setting.

Nothing is registered and nothing is kept but the figures (`forecast.py`). Not here: the data stages, and which
trainings a recipe has (`minimind.cli.estimate`).
"""

import math
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from minimind import runtime
from minimind.data.kinds import RowKind
from minimind.errors import ConfigError
from minimind.events import EVENTS_FILE, Event, read_events
from minimind.model.config import ModelConfig
from minimind.train.checkpoint import KEEP
from minimind.train.config import StageName, TrainConfig
from minimind.train.forecast import Forecast
from minimind.train.launch import CHECKPOINTS_DIR, LOG_FILE, RUN_FILE, TRAINING_FILE, Trained, launch
from minimind.train.parallel import Ranks
from minimind.train.reference import GROUP_TOKENS_CPU, GROUP_TOKENS_GPU
from minimind.train.setup import compiles
from minimind.train.splits import open_train_split, open_val_split, rows_read
from minimind.train.stage_configs import TrainRun
from minimind.train.stand_ins import (
    BYTES_PER_TOKEN,
    USUAL_TOKENS,
    random_model,
    random_tokenizer,
    random_tokens,
    sample_tokens,
)
from minimind.train.validation import SAMPLE_ITEMS

STEPS = 4
"""That are run: one to warm up, three to measure."""
VALIDATED, SAVED = 2, 3
"""The steps after which held-out rows are looked at, and a checkpoint is saved."""


@dataclass(frozen=True)
class Known:
    """What is there of a training's inputs. Directories by input name; a missing one is stood in for."""

    inputs: Mapping[str, Path]
    exact: frozenset[str]
    """The inputs among them that the training will really have; the others are of the same kind."""
    model: ModelConfig
    """The shape of the models, for those that are not there."""
    there: Collection[RowKind] = ()
    """The kinds of rows that the data has; a training may have a choice of what it learns from."""
    text_bytes: Mapping[RowKind, int] = field(default_factory=dict)
    """Bytes of training text by kind of rows, where the token set is not there; what `epochs` are then worth."""


@dataclass(frozen=True)
class Size:
    """How much the whole training is."""

    steps: int
    items: int
    """Rows or pairs of an epoch."""
    val_items: int


def estimate(stage: StageName, config: TrainConfig, known: Known, work: Path) -> Forecast:
    """The cost of a training, measured in the empty directory `work`.

    Raises ConfigError where it cannot be told how long the training is, and whatever would stop the training itself.
    """
    if config.nodes > 1:
        raise ConfigError(f"`{stage}.nodes` is {config.nodes}; an estimate runs on this machine: set it to 1")
    inputs, stood_in = _inputs(stage, config, known, work)
    size = _size(stage, config, known, inputs)
    run = _rehearsal(stage, config, size, inputs, work)
    started = time.time()
    launch(run)
    took = _Took.of(run, started=started, ended=time.time())
    return took.forecast(run, config, size, stood_in)


def _rehearsal(stage: StageName, config: TrainConfig, size: Size, inputs: Mapping[str, Path], work: Path) -> TrainRun:
    """The training, but for its length and for when it logs, looks and saves."""
    out_dir = work / "training"
    out_dir.mkdir()
    short = config.replace(
        epochs=None,
        tokens=STEPS * config.batch_items * config.item_tokens,
        log_every=1,
        validate_every=VALIDATED,
        checkpoint_steps=SAVED,
        checkpoint_seconds=86400.0,
    )
    run = TrainRun(
        stage=stage, config=short, inputs=dict(inputs), fingerprints=dict.fromkeys(inputs, ""), out_dir=out_dir
    )
    ranks = Ranks(0, config.processes, runtime.choose_device(config.device))
    compiled = compiles(run.replace(config=config), size.steps, ranks)  # it may depend on the length
    return run.replace(config=short.replace(compile="on" if compiled else "off"))


@dataclass(frozen=True)
class _Took:
    """What the rehearsal took, in seconds, and its sizes."""

    start: float
    step: float
    sample: float
    """A look at `SAMPLE_ITEMS` held-out rows."""
    held_out: float
    """The look at all of the rehearsal's, without the probes."""
    held_out_items: int
    probes: float
    """Of one look, whatever is held out."""
    reference: float
    """All of the rehearsal's; 0 where there is none."""
    reference_pairs: int
    save: float
    end: float
    tokens_a_step: float
    mfu: float | None
    memory_mb: float
    model_mb: float
    checkpoint_mb: float

    @classmethod
    def of(cls, run: TrainRun, *, started: float, ended: float) -> "_Took":
        summary = Trained.read(run.out_dir)
        events = [event for event in read_events(run.out_dir / EVENTS_FILE) if event.kind == "step"]
        lines = [event for event in events if "loss" in event.metrics]
        seconds = _step_seconds(lines)
        step = median(seconds[1:])
        gap = [lines[0].time - started, *(b.time - a.time for a, b in zip(lines, lines[1:], strict=False))]
        held_out = open_val_split(run.stage, run.config, run.inputs, ranks=run.config.processes)
        reference = float(summary.figures.get("reference_seconds") or 0.0)
        probes = events[-1].metrics.get("probe_seconds") or 0.0
        mfus = [line.metrics["mfu"] for line in lines[1:] if line.metrics.get("mfu")]
        return cls(
            start=max(gap[0] - step - reference, 0.0),
            step=step,
            sample=max(gap[VALIDATED - 1] - seconds[VALIDATED - 1], 0.0),
            held_out=max(events[-1].time - lines[-1].time - probes, 0.0),
            held_out_items=held_out.num_items if held_out else 0,
            probes=probes,
            reference=reference,
            reference_pairs=int(summary.figures.get("reference_pairs") or 0),
            save=max(gap[SAVED] - seconds[SAVED], 0.0),
            end=max(ended - events[-1].time, 0.0),
            tokens_a_step=(lines[-1].metrics["tokens"] or 0.0) / len(lines),
            mfu=median(value for value in mfus if value) if mfus else None,
            memory_mb=float(summary.figures["peak_memory_mb"] or 0.0),
            model_mb=_megabytes(run.out_dir, without={LOG_FILE, RUN_FILE, TRAINING_FILE, EVENTS_FILE}),
            checkpoint_mb=_megabytes(run.out_dir / CHECKPOINTS_DIR),
        )

    def forecast(self, run: TrainRun, config: TrainConfig, size: Size, stood_in: tuple[str, ...]) -> Forecast:
        """The same for a training of `size` as `config` says."""
        looks = (size.steps - 1) // config.validate_every if config.validate_every else 0
        for_an_item = self.held_out / self.held_out_items if self.held_out_items else 0.0
        for_a_pair = self.reference / self.reference_pairs if self.reference_pairs else 0.0
        reference = self._reference_pairs(config, size) * for_a_pair if for_a_pair else 0.0
        during = size.steps * self.step
        saves = int(during // config.checkpoint_seconds) + size.steps // (config.checkpoint_steps or size.steps + 1)
        return Forecast(
            stage=run.stage,
            steps=size.steps,
            tokens=round(size.steps * self.tokens_a_step),
            tokens_per_second=round(self.tokens_a_step / self.step, 1),
            mfu=self.mfu,
            start_seconds=self.start + reference,
            step_seconds=self.step,
            validation_seconds=looks * self.sample + size.val_items * for_an_item + self.probes,
            checkpoint_seconds=saves * self.save,
            end_seconds=self.end,
            memory_mb=self.memory_mb,
            processes=config.processes,
            model_mb=self.model_mb - self.checkpoint_mb,
            checkpoints_mb=KEEP * self.checkpoint_mb,
            stand_ins=stood_in,
        )

    def _reference_pairs(self, config: TrainConfig, size: Size) -> float:
        """Pairs whose reference the training computes before its first step.

        Pairs are computed in groups, so those beside a wanted one are too (`reference.py`): of groups of g, where a
        share w of the pairs is wanted, 1 − (1 − w)^g.
        """
        cpu = runtime.choose_device(config.device).type == "cpu"
        group_tokens = GROUP_TOKENS_CPU if cpu else GROUP_TOKENS_GPU
        pairs_a_group = max(1.0, group_tokens * config.batch_items / self.tokens_a_step)

        wanted = min(1.0, size.steps * config.batch_items / max(size.items, 1))
        return size.items * (1 - (1 - wanted) ** pairs_a_group) + size.val_items


def _inputs(stage: StageName, config: TrainConfig, known: Known, work: Path) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Every input of the stage as a directory in `work` or one that is there, and what stands in for what."""
    said = list[str]()
    tokenizer = known.inputs.get("tokenizer")
    if tokenizer is None:
        tokenizer = random_tokenizer(work / "tokenizer", vocab_size=known.model.vocab_size)
        said.append("a tokenizer of made-up words")
    found = {"tokenizer": tokenizer} if stage == "pretrain" else {}
    for name in () if stage == "pretrain" else ("model", "teacher") if stage == "distill" else ("model",):
        if name in known.inputs:
            found[name] = known.inputs[name]
        else:
            found[name] = random_model(work / name, known.model, tokenizer)
            said.append(f"a {name} of random weights")
    positions = config.batch_items * config.item_tokens
    amounts = {
        "tokens": (STEPS + 2) * positions,
        "val_tokens": (SAMPLE_ITEMS + config.micro_items) * config.item_tokens,
    }
    for name, kind in rows_read(config, known.there).items():
        if name in known.inputs:
            found[name] = sample_tokens(known.inputs[name], work / name, **amounts)
            said += [] if name in known.exact else [f"another token set of {kind} rows"]
        else:
            size = {"vocab_size": known.model.vocab_size, "longest": config.length}
            found[name] = random_tokens(kind, work / name, **size, **amounts)
            said.append(f"random ids in {kind} documents of usual lengths")
    return found, tuple(said)


def _size(stage: StageName, config: TrainConfig, known: Known, inputs: Mapping[str, Path]) -> Size:
    """Steps and held-out rows: of the real token sets where they are there, else from the bytes of their text."""
    tokenizer = inputs.get("tokenizer", inputs.get("model"))
    assert tokenizer is not None
    rows = rows_read(config, known.there)
    if rows.keys() <= known.inputs.keys():
        trained = open_train_split(stage, config, known.inputs, tokenizer)
        held_out = open_val_split(stage, config, known.inputs, ranks=config.processes)
        steps = config.total_steps(trained.steps_per_epoch)
        return Size(steps, trained.num_items, held_out.num_items if held_out else 0)
    text_bytes = known.text_bytes.get(rows["tokens"])
    if config.tokens is None and text_bytes is None:
        raise ConfigError(
            f"{stage}: how much an epoch is cannot be told before its rows are read; run the data stages first "
            f"(`minimind run tokens -p kind={rows['tokens']}`), or give `{stage}.tokens`"
        )
    tokens = (text_bytes or 0) / BYTES_PER_TOKEN[rows["tokens"]]
    items = tokens / (2 * USUAL_TOKENS["preference"] if stage == "dpo" else config.length)
    steps = config.total_steps(max(1, math.ceil(items / config.batch_items)))
    return Size(steps, int(items), int(items / 20))  # 5 % are held out by default


def _step_seconds(lines: list[Event]) -> list[float]:
    """Seconds of each step alone, from the tokens and the speed that its line says."""
    tokens = [line.metrics["tokens"] or 0.0 for line in lines]
    speeds = [line.metrics["tokens_per_second"] or 1.0 for line in lines]
    return [(now - before) / speed for before, now, speed in zip([0.0, *tokens], tokens, speeds, strict=False)]


def _megabytes(directory: Path, *, without: set[str] = frozenset()) -> float:  # type: ignore[assignment]
    return sum(p.stat().st_size for p in directory.rglob("*") if p.is_file() and p.name not in without) / 1e6
