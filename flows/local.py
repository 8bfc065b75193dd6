"""The same flows without a deployment: what `minimind run`, `plan` and their kin call.

With `minimind up` running, a flow reports to that Prefect server; without, it gets a server of its
own for as long as it runs, on the same database, so that its page is there afterwards too.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from flows import serve
from flows.catalog import FULL, find_flow
from minimind import runtime
from minimind.artifact import Artifact, Store, open_artifact, prove_model, prove_small
from minimind.config import nearest
from minimind.errors import ConfigError, MiniMindError, MissingError, ServiceError, StageError, disk_error
from minimind.housekeeping.removal import Plan, plan_removal
from minimind.lineage import Lineage

if TYPE_CHECKING:
    from minimind.evaluate.gate import Verdict


def run(name: str, parameters: dict[str, Any], *, console: Console) -> str:
    """Run a flow to its end and give the registry URI of what it made. Raises StageError where a stage fails."""
    from prefect.exceptions import ParameterTypeError

    flow = find_flow(name)
    try:
        flow.validate_parameters(parameters)
    except (ParameterTypeError, ValidationError) as error:
        raise ConfigError(f"{name}: {' '.join(str(error).split())}") from None
    if name == FULL and not parameters.get("refresh") and (done := _all_there(parameters)):
        _settle(console)
        _refuse_again(done[-1])
        console.print(f"[green]✓[/green] all {len(done)} stages are there already; nothing to run", highlight=False)
        return _published(done[-1])
    return to_the_end(flow, parameters, console=console)


def to_the_end(flow: Any, parameters: dict[str, Any], *, console: Console) -> str:
    """Run a flow in this process, with a Prefect server, and its progress on the console."""
    from prefect.exceptions import TerminationSignal

    from tasks.display import Display
    from tasks.pipeline import showing
    from tasks.running import PREFECT_FAILURES, heeding_cancellation, say_cancelled

    serve.stop_on_signals()
    home = runtime.home()
    with (
        serve.prefect_for_one_run(console) as address,
        heeding_cancellation(home),
        showing(Display(console)),
    ):
        try:
            return flow(**parameters)
        except MiniMindError:
            raise
        except (KeyboardInterrupt, TerminationSignal):  # the latter where Prefect's own handler was in place
            say_cancelled(home)
            raise KeyboardInterrupt from None
        except Exception as error:
            if not isinstance(error, PREFECT_FAILURES):
                hint = "MINIMIND_TRACEBACK=1 shows where"
                raise StageError(f"{flow.name} failed: {type(error).__name__}: {error} ({hint})") from error
            if isinstance(error, OSError) and (named := disk_error(error, flow.name, home)):
                raise named from error
            return _without_prefect(error, home, address, console)


def _without_prefect(error: Exception, home: Path, address: str, console: Console) -> str:
    """What a flow gave, or failed with, whose end Prefect did not hear of; raises that, or ServiceError."""
    from tasks.pipeline import REUSED
    from tasks.prefect_page import one_line
    from tasks.redaction import without_secrets
    from tasks.running import own_end, untold

    if before := untold(error):
        raise before from None
    if done := own_end(home):
        console.print("[yellow]![/yellow] Prefect went away; it is told at the next start how this ended")
        return next(reversed(done.versions.values()), "").removesuffix(REUSED)
    raise ServiceError(
        f"Prefect at {without_secrets(address)} does not answer ({one_line(error)}), and the flow cannot go on without "
        "it; what was made is kept: the same command goes on from there, with a Prefect server of its own if none is up"
    ) from error


def find_model(model: str) -> Path:
    """The directory of a model given as a registry URI, an artifact's directory, or a short name (`dpo`), proven."""
    from minimind.evaluate.config import MODEL_NAMES
    from tasks.registry import CANDIDATE
    from tasks.tracking import Tracker

    if Path(model).expanduser().is_dir():
        return prove_model(Path(model).expanduser().resolve())
    known = ("chat", *MODEL_NAMES)
    if model in known:
        model = f"models:/minimind-{model}@{CANDIDATE}"
    elif not model.startswith("models:/"):
        raise MissingError(f"no model `{model}`{nearest(model, known)}; or give a models:/ URI or a directory")
    artifact = Tracker(runtime.home()).resolve(model, Store())
    if not (artifact.dir / "model.safetensors").exists():
        raise ConfigError(f"{model} is a {artifact.kind}, not a model")
    return artifact.dir


@dataclass(frozen=True)
class Promotion:
    """What became of a wish for another champion."""

    verdict: "Verdict"
    gate: str
    """Where the rules stand."""
    name: str
    before: str | None
    """The version that was the champion."""
    now: str | None
    """The version that is; where the model was refused that of before."""


def promote(model: str, *, force: bool = False, reason: str = "", recipe: str | None = None) -> Promotion:
    """Make a model the champion of its name if the gate lets it past, or with `force` in any case.

    The verdict is noted. Raises MissingError where no evaluation measured the model, unless it is forced.
    """
    from tasks import gate
    from tasks.registry import CHAMPION
    from tasks.tracking import Tracker

    home = runtime.home()
    artifact, tracker = open_artifact(find_model(model)), Tracker(home)
    registration = tracker.registration(artifact)
    if registration is None or registration.name is None or registration.uri is None:
        raise MissingError(f"{artifact.dir}: not in the registry at {tracker.uri}; `minimind sync` puts it there")
    name, before = registration.name, tracker.alias_of(registration.name, CHAMPION)
    rules, origin = gate.gate_of(artifact, recipe)
    try:
        verdict = gate.judge(artifact, rules, tracker=tracker, store=Store())
    except MissingError as error:
        if not force:
            raise
        verdict = gate.unmeasured(artifact, rules, str(error), tracker=tracker)
    if force and not verdict.passed:
        verdict = gate.forced(verdict, reason)
    if verdict.state != "refused":
        tracker.set_alias(name, CHAMPION, registration.uri)
    gate.keep(home, artifact, verdict)
    gate.tag(tracker, artifact, verdict)
    return Promotion(verdict, origin, name, before, before if verdict.state == "refused" else registration.uri)


def verdict_of(artifact: Artifact) -> "Verdict | None":
    """What the gate said of an artifact, the last time it was asked."""
    from tasks.gate import kept

    return kept(runtime.home(), artifact)


def resolve(uri: str) -> Path:
    """The directory of the artifact behind a registry URI (`models:/…`), its bytes proven."""
    from tasks.tracking import Tracker

    return Tracker(runtime.home()).resolve(uri, Store()).dir


def registered(lineage: Lineage) -> dict[str, str]:
    """Fingerprint → registry URI of the artifacts of a lineage, as far as they were recorded; no server is asked."""
    from tasks.registry import noted

    home = runtime.home()
    found = {node.fingerprint: noted(home, node.kind, node.fingerprint) for node in lineage.nodes}
    return {fingerprint: one.uri for fingerprint, one in found.items() if one and one.uri}


def newest_report() -> Artifact:
    """The artifact of the last published report card."""
    cards = [artifact for artifact in Store().all() if artifact.kind == "publish"]
    if not cards:
        raise MissingError("no report card yet; `minimind run` writes one at the end of the pipeline")
    return prove_small(max(cards, key=lambda artifact: artifact.manifest.created_at))


def runs(console: Console, *, count: int, as_json: bool) -> None:
    """List the newest runs, pipelines and stages, as MLflow has them."""
    from tasks.tracking import Tracker

    rows = Tracker(runtime.home()).newest_runs(count)
    if as_json:
        console.print_json(json.dumps(rows, ensure_ascii=False))
        return
    table = Table("started", "run", "status", "minutes", "made", "page")
    for row in rows:
        table.add_row(row["started"], row["name"], row["status"], f"{row['minutes']:.1f}", row["made"], row["page"])
    console.print(table)


def removal(*, unfinished_days: float) -> Plan:
    """What the store can do without. Raises ServiceError or ConfigError where the registry cannot say what it needs."""
    from tasks.tracking import Tracker

    tracker, store = Tracker(runtime.home()), Store()
    aliased = tracker.aliased()
    if not aliased and any(store.all()):
        raise ConfigError(
            f"the registry at {tracker.uri} knows nothing of this store, so nothing in it would be kept; "
            "`minimind sync` tells it what there is"
        )
    return plan_removal(store, aliased, unfinished_days=unfinished_days)


def sync(console: Console) -> None:
    """Deliver to MLflow what it missed while it was down: artifacts, and how runs ended."""
    from tasks.running import settle_mlflow
    from tasks.tracking import Tracker

    tracker = Tracker(runtime.home())
    settle_mlflow(runtime.home(), tracker)
    delivered = tracker.sync(Store())
    for registration in delivered:
        console.print(f"sent {registration.uri or registration.run_id}", highlight=False)
    console.print(f"{len(delivered)} artifact(s) delivered to {tracker.uri}", highlight=False)


def _all_there(parameters: dict[str, Any]) -> list[Any]:
    """The steps of the pipeline if every one is sealed, whole, known to MLflow, and the gate judged; else none."""
    from flows.local_plan import planned
    from tasks.gate import is_settled, kept
    from tasks.tracking import Tracker

    steps = planned(parameters)
    if not all(step.reused for step in steps):
        return []
    try:
        tracker, store = Tracker(runtime.home()), Store()
    except ServiceError:
        return steps
    artifacts = [open_artifact(store.path(step.parts.stage, step.parts.fingerprint())) for step in steps]
    if not all(tracker.registration(artifact) for artifact in artifacts):
        return []
    verdict = kept(runtime.home(), artifacts[-1])
    return steps if verdict and is_settled(verdict, artifacts[-1], tracker) else []


def _settle(console: Console) -> None:
    """End in both servers what killed processes left open, where no flow is started that would."""
    from tasks.pipeline import end_lost_runs
    from tasks.running import any_lost

    home = runtime.home()
    if any_lost(home):
        with serve.prefect_for_one_run(console):
            end_lost_runs(home)


def _refuse_again(last: Any) -> None:
    """Raise the GateError that a pipeline ended with, where everything of it is there and nothing has changed."""
    from tasks.gate import kept, refusal

    artifact = open_artifact(Store().path(last.parts.stage, last.parts.fingerprint()))
    verdict = kept(runtime.home(), artifact)
    if verdict and verdict.state == "refused":
        raise refusal(verdict, artifact)


def _published(last: Any) -> str:
    """The registry URI of what a pipeline's last step made; its directory where no registry answers."""
    from tasks.tracking import Tracker

    artifact = open_artifact(Store().path(last.parts.stage, last.parts.fingerprint()))
    try:
        registration = Tracker(runtime.home()).registration(artifact)
    except ServiceError:
        return str(artifact.dir)
    return (registration and registration.uri) or str(artifact.dir)
