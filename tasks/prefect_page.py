"""What a flow run shows on its page in Prefect: of each stage progress, figures, curve and report; a table of them all.

Each is an artifact of Prefect's with a key of its own (`sft`, `sft-curve`, `report-card`, `stages`), so that Prefect
keeps its history over runs. A server that does not answer costs a warning.
"""

import base64
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import get_run_logger
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    update_progress_artifact,
)
from prefect.context import FlowRunContext

from minimind.artifact import Artifact, open_artifact
from minimind.data.wording import duration
from minimind.errors import MiniMindError
from minimind.evaluate.card.charts import draw_loss
from minimind.evaluate.card.collect import training_of
from minimind.events import Event
from tasks.patience import with_prefect
from tasks.redaction import without_secrets
from tasks.registry import Registration, noted
from tasks.running import PREFECT_FAILURES

if TYPE_CHECKING:
    from tasks.stage import Pipeline

UPDATE_SECONDS = 5.0


def tell_prefect(pipeline: "Pipeline", what: str, tell: Callable[[], None]) -> None:
    """Show something in Prefect; a server that does not answer costs a warning, and for a while is not asked again."""
    if FlowRunContext.get() is None or with_prefect().seconds_left():
        return
    try:
        tell()
    except PREFECT_FAILURES as error:
        with_prefect().lost()
        pipeline.display.warn(f"Prefect was not told of {what} ({one_line(error)})")


def show_stage(artifact: Artifact, registration: Registration | None, pipeline: "Pipeline", label: str) -> None:
    """Figures with the link to MLflow and samples; the curve of a training; the report of a stage that wrote one."""
    key = key_of(label)
    create_markdown_artifact(
        _figures(artifact, registration, pipeline, label), key=key, description=f"{label}: figures"
    )
    if curve := _curve(artifact):
        create_markdown_artifact(curve, key=f"{key}-curve", description=f"{label}: loss")
    if (artifact.dir / "report.md").exists():
        text = (artifact.dir / "report.md").read_text(encoding="utf-8")
        key = "report-card" if artifact.kind == "publish" else f"{key}-report"
        create_markdown_artifact(text, key=key, description=key.replace("-", " "))


def show_stages(pipeline: "Pipeline", status: str) -> None:
    """All stages of a flow run in one table: made or reused, which version, how long, where in MLflow."""
    if not pipeline.steps or status == "KILLED":  # a cancelled run is to end soon
        return
    lines = [f"# {pipeline.name}: {status.lower()}", ""]
    if pipeline.tracker and pipeline.run_id:
        lines += [f"[MLflow run]({pipeline.tracker.links.run(pipeline.tracker.experiment_id, pipeline.run_id)})", ""]
    lines += ["| stage | | version | took | MLflow |", "|---|---|---|---|---|"]
    for step in pipeline.steps:
        fingerprint = step.parts.fingerprint()
        artifact = open_artifact(pipeline.store.path(step.parts.stage, fingerprint))
        took = "" if step.reused else duration(artifact.manifest.seconds)
        words = ["reused" if step.reused else "made", f"`{step.uri or fingerprint}`", took, _link(pipeline, artifact)]
        lines.append(f"| {step.label} | {' | '.join(words)} |")
    create_markdown_artifact("\n".join(lines), key="stages", description=f"{pipeline.name}: its stages")


def show_first_steps(label: str, link: str) -> None:
    """A link to the page of a training's first steps."""
    create_link_artifact(
        link=link,
        link_text=Path(link.partition("?")[0]).name,
        key=f"{key_of(label)}-first-steps",
        description=f"{label}: the tokens of its first steps, and what is learnt of them",
    )


def progress_sink(label: str) -> Callable[[list[Event]], None]:
    """Progress and throttled log lines of a stage that runs."""
    log = get_run_logger()
    artifact_id = create_progress_artifact(
        progress=0.0, key=f"{key_of(label)}-progress", description=f"{label}: progress"
    )
    last_time = [0.0]

    def deliver(events: list[Event]) -> None:
        for event in events:
            if event.kind == "log":
                log.warning(event.message) if event.level == "warning" else log.info(event.message)
        moving = [event for event in events if event.kind != "log" and event.total]
        if not moving:
            return
        event = moving[-1]
        if event.step >= event.total or event.time - last_time[0] > UPDATE_SECONDS:
            last_time[0] = event.time
            log.info("%s/%s %s", event.step, event.total, _figures_line(event.metrics) or event.message)
            update_progress_artifact(artifact_id=artifact_id, progress=min(100.0, 100 * event.step / event.total))

    return deliver


def key_of(label: str) -> str:
    """A label as Prefect allows it in the key of an artifact."""
    return label.replace("_", "-")


def one_line(error: BaseException) -> str:
    text = str(error) if isinstance(error, MiniMindError) else f"{type(error).__name__}: {error}"
    text = without_secrets(text)
    return text.strip().splitlines()[0][:300] if text.strip() else type(error).__name__


def _figures(artifact: Artifact, registration: Registration | None, pipeline: "Pipeline", label: str) -> str:
    version = registration.uri if registration and registration.uri else artifact.fingerprint
    lines = [f"# {label}", "", f"`{version}`", ""]
    if registration and pipeline.tracker:
        link = pipeline.tracker.links.run(pipeline.tracker.experiment_id, registration.run_id)
        lines += [f"[MLflow run]({link})", ""]
    summary = artifact.summary()
    lines += ["| figure | value |", "|---|---|", *(f"| {k} | {v} |" for k, v in summary.figures.items())]
    lines += ["", *(f"- {warning}" for warning in summary.warnings)]
    if summary.samples:
        lines += ["", "## Samples", "```text", *summary.samples[:5], "```"]
    return "\n".join(lines)


def _curve(artifact: Artifact) -> str | None:
    """The loss of a training as a picture that stands in the text itself: MLflow's page may be down."""
    training = training_of(artifact)
    if not training.curves:
        return None
    with tempfile.TemporaryDirectory() as directory:
        name = draw_loss(training, Path(directory))
        picture = base64.b64encode((Path(directory) / f"{name}.png").read_bytes()).decode()
    return f"![loss of {artifact.label} by step](data:image/png;base64,{picture})"


def _link(pipeline: "Pipeline", artifact: Artifact) -> str:
    registration = noted(pipeline.store.root.parent, artifact.kind, artifact.fingerprint)
    if not (pipeline.tracker and registration):
        return ""
    return f"[run]({pipeline.tracker.links.run(pipeline.tracker.experiment_id, registration.run_id)})"


def _figures_line(metrics: Mapping[str, float | None]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in metrics.items() if value is not None)
