"""The gate as a pipeline and `minimind promote` go through it: who the champion is, the verdict, and where it stands.

    <home>/gate/<kind>-<fingerprint>.json   the newest verdict on an artifact (`minimind.evaluate.gate.Verdict`)

The version in the registry has it as tags, the flow run's page in Prefect as a table. Not here: the rules.
"""

import getpass
from pathlib import Path

from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.context import FlowRunContext

from minimind import runtime
from minimind.artifact import Artifact, Store
from minimind.data.wording import cell
from minimind.errors import GateError, MissingError
from minimind.evaluate.config import GateConfig
from minimind.evaluate.evaluated import evaluated
from minimind.evaluate.gate import Champion, Forced, Ruling, Verdict, against_champion, not_compared, own_rules
from minimind.recipe import load_recipe, recipe_names
from tasks.prefect_page import one_line, tell_prefect
from tasks.recording import telling_mlflow
from tasks.registry import CHAMPION, Registry, registered_as
from tasks.stage import Pipeline

CHAMPION_ALREADY = "champion"
"""The only rule of what is the champion."""


def pass_gate(run: Pipeline, published: Artifact) -> Verdict:
    """Judge what a pipeline published, and say so where people look. No alias is moved."""
    run.display.started("gate")
    tracker = _registry(run, published)
    verdict = judge(published, run.recipe.gate, tracker=tracker, store=run.store)
    tell = run.display.failed if verdict.state == "refused" else run.display.finished
    tell("gate", verdict.state)
    if tracker:  # else the next run judges in full
        keep(run.store.root.parent, published, verdict)
        with telling_mlflow(run, "what the gate said"):
            tag(tracker, published, verdict)
    words = page(verdict)
    tell_prefect(
        run,
        "what the gate said",
        lambda: create_markdown_artifact(words, key="gate", description=f"the gate: {verdict.state}"),
    )
    if FlowRunContext.get():
        get_run_logger().info("gate: %s %s", verdict.state, verdict.reason)
    return verdict


def judge(artifact: Artifact, gate: GateConfig, *, tracker: Registry | None, store: Store) -> Verdict:
    """Every rule on a model that was evaluated. Raises MissingError where none measured it."""
    model = evaluated(artifact)
    champion = _champion(artifact, tracker) if tracker else None
    if champion and champion.fingerprint == artifact.fingerprint:
        rulings = [Ruling(rule=CHAMPION_ALREADY, passed=True, detail=f"it is {champion.uri} already")]
    else:
        rulings = own_rules(gate, model)
        if gate.enabled and tracker:
            rulings.append(_against(gate, artifact, champion, tracker, store))
    return _verdict(artifact, model.name, gate, champion, rulings)


def unmeasured(artifact: Artifact, gate: GateConfig, why: str, *, tracker: Registry) -> Verdict:
    """The verdict on a model that no evaluation measured."""
    rulings = [Ruling(rule="evaluation", passed=False, detail=why)]
    return _verdict(artifact, artifact.kind, gate, _champion(artifact, tracker), rulings)


def forced(verdict: Verdict, reason: str) -> Verdict:
    """The verdict, set aside by the user of this machine."""
    return verdict.replace(forced=Forced(by=getpass.getuser(), reason=reason, at=runtime.now()))


def gate_of(artifact: Artifact, recipe: str | None = None) -> tuple[GateConfig, str]:
    """The `[gate]` a model has to pass, and where that stands.

    Of a published one its manifest says it; of another the recipe it was made with, where that is one of those that
    ship; else the defaults.
    """
    known = artifact.manifest.parts.config.get("gate")
    if recipe is None and known is not None:
        return GateConfig.parse(known, origin=str(artifact.dir)), "its own manifest"
    name = recipe or artifact.manifest.context.get("recipe", "")
    if recipe or name in recipe_names():
        return load_recipe(name).gate, f"recipe {name}"
    return GateConfig(), "the defaults (--recipe FILE names another)"


def keep(home: Path, artifact: Artifact, verdict: Verdict) -> None:
    """Note the newest verdict; what made a model the champion stays noted while it is that."""
    path = _path(home, artifact)
    if verdict.rulings[0].rule == CHAMPION_ALREADY and kept(home, artifact):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    verdict.write(path)


def kept(home: Path, artifact: Artifact) -> Verdict | None:
    """The newest verdict on an artifact; None where it was never judged, or the note of that is damaged."""
    return Verdict.read_or_set_aside(_path(home, artifact), instead="the next run judges it again")


def is_settled(verdict: Verdict, artifact: Artifact, tracker: Registry) -> bool:
    """Whether a verdict still holds: a refusal does as long as the champion is the one it was compared with."""
    before = verdict.champion and verdict.champion.uri
    return verdict.state != "refused" or tracker.alias_of(_name(artifact), CHAMPION) == before


def tag(tracker: Registry, artifact: Artifact, verdict: Verdict) -> None:
    """Write the verdict on the model's version in the registry, where it has one."""
    if verdict.rulings[0].rule == CHAMPION_ALREADY or not (uri := _uri(artifact, tracker)):
        return
    why = verdict.forced and f"; forced by {verdict.forced.by}: {verdict.forced.reason}"
    tracker.tag_version(uri, {"gate": verdict.state, "gate_reason": verdict.reason + (why or "")})


def refusal(verdict: Verdict, artifact: Artifact, tracker: Registry | None = None) -> GateError:
    """What is raised where a model is refused: why, where to look, what to do."""
    name, uri = _name(artifact), _uri(artifact, tracker) if tracker else None
    stays = f"@champion of {name} stays {verdict.champion.uri}" if verdict.champion else f"{name} has no @champion"
    card = artifact.dir / "report.html"
    where = f" The report card: {card}." if card.exists() else ""
    return GateError(
        f"the gate refuses {uri or artifact.dir} ({verdict.model}): {verdict.reason}. {stays}.{where} Train a better "
        f'one, change [gate] in the recipe, or `minimind promote {uri or artifact.dir} --force --reason "…"`'
    )


def page(verdict: Verdict) -> str:
    """The verdict in Markdown; a list, because Prefect's page cuts tables off where they are wide."""
    lines = [f"# The gate: {verdict.state}", "", f"`{verdict.label}` {verdict.model} `{verdict.fingerprint}`", ""]
    if verdict.champion:
        lines += [f"Champion: `{verdict.champion.uri}` `{verdict.champion.fingerprint}`", ""]
    words: dict[bool | None, str] = {True: "passed", False: "refused", None: "not judged"}
    lines += [f"- **{cell(one.rule)}** {words[one.passed]}: {cell(one.detail)}" for one in verdict.rulings]
    if verdict.forced:
        lines += ["", cell(f"Forced by {verdict.forced.by}, {verdict.forced.at}: {verdict.forced.reason}")]
    return "\n".join(lines) + "\n"


def _registry(run: Pipeline, published: Artifact) -> Registry | None:
    """The registry, where it says who the champion is."""
    why = "it was down at the start"
    if run.tracker:
        try:
            _champion(published, run.tracker)
            return run.tracker
        except run.tracker.failures as error:
            why = one_line(error)
    run.display.warn(f"the gate did not compare with the champion: MLflow does not answer ({why}); run it again")
    return None


def _verdict(
    artifact: Artifact, model: str, gate: GateConfig, champion: Champion | None, rulings: list[Ruling]
) -> Verdict:
    return Verdict(
        model=model,
        label=artifact.label,
        fingerprint=artifact.fingerprint,
        champion=champion,
        gate=gate,
        rulings=rulings,
        judged_at=runtime.now(),
    )


def _champion(artifact: Artifact, tracker: Registry) -> Champion | None:
    uri = tracker.alias_of(_name(artifact), CHAMPION)
    return Champion(uri=uri, fingerprint=tracker.fingerprint_of(uri)) if uri else None


def _against(
    gate: GateConfig, artifact: Artifact, champion: Champion | None, tracker: Registry, store: Store
) -> Ruling:
    """The comparison with the champion, of which the files may be gone."""
    if champion is None or gate.max_bits_per_byte_loss is None:
        words = f"{_name(artifact)} has no champion yet" if champion is None else "is not set"
        return Ruling(rule="max_bits_per_byte_loss", passed=None, detail=words)
    try:
        files = tracker.resolve(champion.uri, store)
    except tracker.failures as error:
        return not_compared(one_line(error))
    return against_champion(gate, evaluated(artifact), files)


def _name(artifact: Artifact) -> str:
    """The model's name in the registry. Raises MissingError for what has none."""
    if (name := registered_as(artifact.label)) is None:
        raise MissingError(f"{artifact.dir}: a {artifact.kind} has no name in the registry")
    return name


def _uri(artifact: Artifact, tracker: Registry) -> str | None:
    registration = tracker.registration(artifact)
    return registration.uri if registration else None


def _path(home: Path, artifact: Artifact) -> Path:
    return home / "gate" / f"{artifact.kind}-{artifact.fingerprint}.json"
