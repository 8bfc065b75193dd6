"""Proofs that trainings are exact, run on the user's own machine: `minimind verify resume` and `invariance`.

`prove_resume` trains once without a break and once under SIGKILLs at random moments, to the agent and all ranks, and
compares weights, optimizers' state and every figure of the log. `prove_invariance` trains with `exact` in several
layouts (ranks × micro-batches of each) and once with a change of layout in mid-run.

What is equal to the bit are layouts with the same number of micro-batches in a batch, so of the same size: 1 × 4 and
2 × 2, not 1 × 4 and 1 × 2. Between micro-batches of different sizes, kernels round differently: there the losses must
agree within `TOLERANCE`. Not here: the miniature itself (`trial.py`).
"""

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minimind.config import Config
from minimind.errors import ConfigError
from minimind.model.config import ModelConfig
from minimind.train.config import StageName
from minimind.train.launch import Trained
from minimind.train.stage_configs import TrainRun
from minimind.train.trial import LENGTH, Trial, last_step, train_in_processes

STEPS = 40
CHECKPOINT_STEPS = 4
BATCH_ROWS = 8
TOLERANCE = 1e-3
"""Largest relative difference of the last losses where micro-batches differ in size; some 1e-6 is usual."""
LARGEST_BATCH = 256
"""Rows. The proof is to end soon."""

Tell = Callable[[str], None]


class Outcome(Config):
    """What came of one training."""

    name: str
    ranks: int
    accumulated: int
    """Micro-batches of each rank; of the last layout where it changed."""
    micro_batches: int
    """Of the whole batch; equal bits are promised where this is equal."""
    kills: list[str]
    seconds: float
    loss: float | None
    weights: str
    optimizer: str
    metrics: str


class Proof(Config):
    """All outcomes, and whether they are what was promised."""

    what: str
    stage: str
    outcomes: list[Outcome]
    equal: bool
    verdict: str


@dataclass(frozen=True)
class Subject:
    """What is trained: a stage, and settings and a shape other than the built-in ones."""

    stage: StageName
    settings: Mapping[str, Any]
    shape: ModelConfig | None = None


def prove_resume(root: Path, subject: Subject, *, kills: int, ranks: int, seed: int, tell: Tell) -> Proof:
    """Train below `root`, undisturbed and under `kills` SIGKILLs, and compare."""
    if not 1 <= kills < STEPS // 2:
        raise ConfigError(f"--kills {kills}: give 1 to {STEPS // 2 - 1}, the training has {STEPS} steps")
    if not 1 <= ranks <= BATCH_ROWS:
        raise ConfigError(f"--ranks {ranks}: give 1 to {BATCH_ROWS}, the batch has {BATCH_ROWS} rows")
    trial = Trial(root, subject.stage, subject.shape)
    settings = _settings(subject, rows=BATCH_ROWS, micro_rows=max(1, BATCH_ROWS // (2 * ranks)), exact=False)
    outcomes = []
    for name, count in (("undisturbed", 0), ("killed", kills)):
        run = trial.run(name, {**settings, "processes": ranks})
        outcomes.append(_train(run, name, _moments(count, seed), tell))
    equal = len({(o.weights, o.optimizer, o.metrics) for o in outcomes}) == 1
    landed = len(outcomes[1].kills)
    verdict = f"{landed} SIGKILLs left {'the same bits' if equal else 'OTHER BITS than no kill'}"
    return Proof(what="resume", stage=subject.stage, outcomes=outcomes, equal=equal, verdict=verdict)


def prove_invariance(
    root: Path, subject: Subject, *, layouts: Sequence[tuple[int, int]], seed: int, tell: Tell
) -> Proof:
    """Train below `root` in each layout (ranks, micro-batches of each), and with a change between them."""
    rows = _batch_rows(layouts)
    trial = Trial(root, subject.stage, subject.shape)
    outcomes = []
    for ranks, accumulated in layouts:
        name = f"{ranks} × {accumulated}"
        settings = _settings(subject, rows=rows, micro_rows=rows // (ranks * accumulated), exact=True)
        run = trial.run(f"{ranks}x{accumulated}", {**settings, "processes": ranks})
        outcomes.append(_train(run, name, (), tell))
    for one, other in zip(layouts, layouts[1:], strict=False):
        if math.prod(one) == math.prod(other) and one != other:
            settings = _settings(subject, rows=rows, micro_rows=rows // math.prod(one), exact=True)
            name = f"{one[0]} × {one[1]}, then {other[0]} × {other[1]}"
            first = trial.run(f"{one[0]}x{one[1]}-{other[0]}x{other[1]}", {**settings, "processes": one[0]})
            then = first.replace(config=first.config.replace(processes=other[0]))
            outcomes.append(_train(first, name, _moments(1, seed), tell, then=then))
    groups: dict[int, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(outcome.micro_batches, []).append(outcome)
    same = all(len({(o.weights, o.optimizer, o.metrics) for o in group}) == 1 for group in groups.values())
    apart = _apart([outcome.loss for outcome in outcomes])
    verdict = f"layouts with equal micro-batches {'have the same bits' if same else 'DIFFER'}"
    if len(groups) > 1:
        verdict += f"; with others the last losses are {apart:.1e} apart, {TOLERANCE:.0e} is allowed"
    equal = same and apart <= TOLERANCE
    return Proof(what="invariance", stage=subject.stage, outcomes=outcomes, equal=equal, verdict=verdict)


def _train(
    run: TrainRun, name: str, moments: Sequence[tuple[int, float]], tell: Tell, *, then: TrainRun | None = None
) -> Outcome:
    """Train to the end, through a kill at each of `moments` (step, seconds after it); `then` from the first kill on."""
    from minimind.train.digests import digest_figures  # imports torch, seconds

    started, kills = time.monotonic(), list[str]()
    for step, delay in moments:
        tell(f"{name}: to be killed after step {step} of {STEPS}")
        kill = _Kill(run, step, delay)
        if train_in_processes(run, kill_when=kill.is_due):
            break
        kills.append(f"after step {last_step(run)}")
        run = then or run
    else:
        tell(f"{name}: to the end")
        train_in_processes(run)
    figures = Trained.read(run.out_dir).figures
    loss = figures.get("loss")
    return Outcome(
        name=name,
        ranks=run.config.processes,
        accumulated=-(-run.config.num_micro // run.config.processes),
        micro_batches=run.config.num_micro,
        kills=kills,
        seconds=round(time.monotonic() - started, 1),
        loss=loss if isinstance(loss, float) else None,
        weights=str(figures["weights_digest"]),
        optimizer=str(figures["optimizer_digest"]),
        metrics=digest_figures(run.out_dir),
    )


class _Kill:
    """Says when it is time: some seconds after a step came into the log."""

    def __init__(self, run: TrainRun, step: int, delay: float) -> None:
        self._run, self._step, self._delay = run, step, delay
        self._since: float | None = None

    def is_due(self) -> bool:
        """Whether it is time."""
        if self._since is None and last_step(self._run) >= self._step:
            self._since = time.monotonic()
        return self._since is not None and time.monotonic() - self._since >= self._delay


def _moments(kills: int, seed: int) -> list[tuple[int, float]]:
    """Steps at random, ascending, and up to two steps' time more, so that saves and updates are hit too."""
    rng = random.Random(seed)
    steps = sorted(rng.sample(range(2, STEPS - CHECKPOINT_STEPS), kills))
    return [(step, rng.uniform(0, 0.06)) for step in steps]


def _settings(subject: Subject, *, rows: int, micro_rows: int, exact: bool) -> dict[str, Any]:
    """Of a training of `STEPS` steps with so many rows (or pairs) a step."""
    length = 2 * LENGTH if subject.stage == "dpo" else LENGTH
    return {
        "warmup_steps": 4,
        "precision": "fp32",
        **subject.settings,
        "exact": exact,
        "epochs": None,
        "tokens": STEPS * rows * length,
        "length": LENGTH,
        "batch_tokens": rows * length,
        "micro_tokens": micro_rows * length,
        "validate_every": 10,
        "log_every": 1,
        "checkpoint_steps": CHECKPOINT_STEPS,
        "device": "cpu",
    }


def _batch_rows(layouts: Sequence[tuple[int, int]]) -> int:
    """Rows that every layout divides evenly, two or more to a micro-batch of the finest."""
    for ranks, accumulated in layouts:
        if ranks < 1 or accumulated < 1 or ranks & (ranks - 1):
            raise ConfigError(
                f"--world {ranks} --accum {accumulated}: ranks are 1, 2, 4, 8, …, and each has 1 micro-batch or more"
            )
    rows = 2 * math.lcm(*(math.prod(layout) for layout in layouts))
    if rows > LARGEST_BATCH:
        raise ConfigError(f"--world and --accum need a batch of {rows} rows, above {LARGEST_BATCH}; give smaller ones")
    return rows


def _apart(losses: Sequence[float | None]) -> float:
    """The largest relative difference."""
    known = [loss for loss in losses if loss is not None]
    return (max(known) - min(known)) / max(abs(min(known)), 1e-12) if known else math.inf
