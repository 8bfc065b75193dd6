"""What a training is expected to cost, and what it cost: kept in the store until the training has run.

    <home>/estimates/<stage>-<key>.json

The key is a digest of all settings, those that only say where and how fast included, and of the inputs' fingerprints:
an estimate for two processes says nothing of a run with one. Not here: how it is measured (`estimate.py`).
"""

from collections.abc import Mapping
from pathlib import Path

from minimind import fingerprint
from minimind.artifact import Summary
from minimind.proven import Proven
from minimind.train.config import StageName, TrainConfig
from minimind.train.stage_configs import TrainRun

DIRECTORY = "estimates"


class Forecast(Proven):
    """One training before it runs. Times are wall seconds on the machine that measured, sizes MB of 10⁶ bytes."""

    stage: StageName
    steps: int
    tokens: int
    """Token positions without padding, over all steps."""
    tokens_per_second: float
    mfu: float | None
    """Share of the device's peak; None where that is not known."""
    start_seconds: float
    """Processes, imports, opening, compiling, for DPO the reference; until the first step begins."""
    step_seconds: float
    """Of one step."""
    validation_seconds: float
    """All looks together."""
    checkpoint_seconds: float
    """All of them together."""
    end_seconds: float
    """Saving the model, ending the processes."""
    memory_mb: float
    """The most that a process holds; of the GPU where there is one."""
    processes: int
    model_mb: float
    checkpoints_mb: float
    stand_ins: tuple[str, ...] = ()
    """What was not there yet, and what took its place."""

    @property
    def seconds(self) -> float:
        """From the start of the stage to its end."""
        around = self.start_seconds + self.validation_seconds + self.checkpoint_seconds + self.end_seconds
        return around + self.steps * self.step_seconds

    @property
    def disk_mb(self) -> float:
        """The most that is on the disk at once: checkpoints, and the model they become."""
        return self.model_mb + self.checkpoints_mb

    def cost(self, price_per_hour: float) -> float:
        """In the unit of the price, which is that of the whole machine."""
        return self.seconds / 3600 * price_per_hour


def key_of(config: TrainConfig, fingerprints: Mapping[str, str]) -> str:
    return fingerprint.digest({"config": config.model_dump(mode="json"), "inputs": dict(fingerprints)})[:16]


def keep(home: Path, forecast: Forecast, config: TrainConfig, fingerprints: Mapping[str, str]) -> Path:
    """Write an estimate where the training will look for it."""
    path = _path(home, forecast.stage, config, fingerprints)
    path.parent.mkdir(parents=True, exist_ok=True)
    forecast.write(path)
    return path


def find(home: Path, stage: StageName, config: TrainConfig, fingerprints: Mapping[str, str]) -> Forecast | None:
    """The estimate of that very training; None where there is none that can be believed."""
    path = _path(home, stage, config, fingerprints)
    return Forecast.read_or_set_aside(path, instead="`minimind estimate` makes another one")


def compared(summary: Summary, run: TrainRun, *, seconds: float) -> Summary:
    """`summary` with `estimated_seconds` and `actual_seconds`, where the run was estimated. It took `seconds`."""
    home = run.out_dir.parents[2]  # <home>/artifacts/<stage>/<scratch>
    forecast = find(home, run.stage, run.config, run.fingerprints)
    if forecast is None:
        return summary
    figures = {"estimated_seconds": round(forecast.seconds, 1), "actual_seconds": round(seconds, 1)}
    return summary.replace(figures={**summary.figures, **figures})


def _path(home: Path, stage: str, config: TrainConfig, fingerprints: Mapping[str, str]) -> Path:
    return home / DIRECTORY / f"{stage}-{key_of(config, fingerprints)}.json"
