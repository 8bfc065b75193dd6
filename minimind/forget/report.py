"""What there is to know before rows are forgotten: who saw them, and what to do. Nothing is changed by it."""

from collections.abc import Sequence
from pathlib import Path

from minimind.artifact import Artifact, Store
from minimind.config import Config
from minimind.data.dropped import DROPPED_FILE
from minimind.data.forget_list import HOW, ForgetList, Place, read_list
from minimind.errors import DataError
from minimind.forget.reach import Reached, reach
from minimind.forget.rerun import Rerun, newest_pipeline, without_rows, without_sources
from minimind.forget.rows import (
    Row,
    Sought,
    drops,
    find_rows,
    find_sources,
    listed_rows,
    sources_of,
    unknown_lines,
)
from minimind.housekeeping.pins import pins
from minimind.tokens.trainings import TRAININGS, Training


class Forgetting(Config):
    """The answer of `minimind forget`."""

    rows: list[Row] = []
    """Named ones and their copies; none of whole sources."""
    unknown: list[int] = []
    """Lines of the list that name no row of any artifact."""
    sources: list[str] = []
    """What was asked for instead: sources, and `source/file`."""
    reached: list[Reached]
    """In order: each behind those it was made of."""
    untold: list[str]
    """Models of which it cannot be told."""
    rerun: Rerun
    notes: list[str]


def forget_rows(path: Path, store: Store, trainings: Sequence[Training], *, out: Path | None = None) -> Forgetting:
    """Who saw the rows of a list, and what to do without them.

    `out` is where their ids will be written for the data spec, instead of the list as it is. Raises DataError for a
    list with a line that names no row, and MissingError where no artifact has one.
    """
    listed, artifacts = read_list(path), list(store.all())
    if not listed.entries:
        raise DataError(f"{path}: names no row; {HOW}")
    sought, rows = find_rows(listed, artifacts)
    reached = reach(sought, artifacts, trainings)
    of_spec, place = (listed, path) if out is None and _is_fit(listed, artifacts) else (listed_rows(rows), out)
    rerun = without_rows(of_spec, place or Path("forget.jsonl"), artifacts)
    if place is None:
        edit = f"`minimind forget --rows {path} --out forget.jsonl` writes a list that a data spec can use"
        rerun = rerun.replace(edits=[edit, *rerun.edits])
    holding = {one.fingerprint for one in reached}
    notes = [
        f"the sources still have the rows, and so has their copy {one.label} {one.fingerprint}: take them out of the "
        "sources too, if they are to be nowhere"
        for one in newest_pipeline(artifacts)
        if one.kind == "ingest" and one.fingerprint in holding
    ]
    if place == path:
        notes.append(f"{path} may hold their texts; --out FILE writes a list of their ids alone")
    told = {"rows": rows, "unknown": unknown_lines(listed, rows), "reached": reached, "rerun": rerun}
    return Forgetting(**told, **_around(reached, store, artifacts, notes))


def forget_sources(patterns: Sequence[str], store: Store, trainings: Sequence[Training]) -> Forgetting:
    """Who saw rows of these sources or files, and what to do without them. Raises MissingError for one never read."""
    artifacts = list(store.all())
    sought = find_sources(patterns, artifacts)
    reached = reach(sought, artifacts, trainings)
    notes = []
    if count := _come_back(sought, newest_pipeline(artifacts)):
        notes.append(f"{count} rows of other sources were dropped as copies of its rows: without it they are kept")
    told = {"sources": sorted(sought.sources | sought.files), "reached": reached}
    rerun = without_sources(sought, artifacts)
    return Forgetting(**told, rerun=rerun, **_around(reached, store, artifacts, notes))


def _around(
    reached: Sequence[Reached], store: Store, artifacts: Sequence[Artifact], notes: list[str]
) -> dict[str, list[str]]:
    """What cannot be told, and the notes with those that any answer has."""
    fingerprints = {one.fingerprint for one in reached}
    pinned = {fingerprint: label for fingerprint, label in pins(store).items() if fingerprint in fingerprints}
    notes += [
        f"{label} {fingerprint} is pinned: `minimind unpin {fingerprint}`" for fingerprint, label in pinned.items()
    ]
    notes += [
        "`minimind gc` keeps versions with an alias: the run moves @candidate and @champion, move your own",
        "MLflow has copies of models and logs: delete the old versions and runs there too",
    ]
    learnt = {one.fingerprint for one in reached if one.how in ("learnt", "made_of")}
    return {"untold": _untold(artifacts, learnt), "notes": notes}


def _is_fit(listed: ForgetList, artifacts: Sequence[Artifact]) -> bool:
    """Whether a data spec like that of the newest pipeline can take a list as it is."""
    names = {name for one in newest_pipeline(artifacts) if one.kind == "ingest" for name in sources_of(one)}
    return not listed.of_no_kind and all(place.source in names for place in listed.places.values())


def _come_back(sought: Sought, pipeline: Sequence[Artifact]) -> int:
    """Rows of other sources that were dropped for one of these."""

    def is_from(place: Place) -> bool:
        return sought.has("", place)

    logs = [clean.dir / DROPPED_FILE for clean in pipeline if clean.kind == "clean"]
    return sum(is_from(kept) and not is_from(dropped) for log in logs for dropped, kept in drops(log))


def _untold(artifacts: Sequence[Artifact], told: set[str]) -> list[str]:
    known = {artifact.fingerprint for artifact in artifacts}
    return [
        f"{one.label} {one.fingerprint}: what it read as `{name}` is not in the store any more"
        for one in artifacts
        if one.kind in TRAININGS and one.fingerprint not in told
        for name, fingerprint in one.manifest.parents.items()
        if fingerprint not in known
    ]
