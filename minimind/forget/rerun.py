"""What must run again for rows to be forgotten: of the newest pipeline of a store, the stages behind what is to change.

Told from the manifests alone, with the seconds that a stage took the last time. A list of rows changes how the kinds of
rows are cleaned of which it names any; without a source, or a file of it, its kind is read anew. All that was made of
these runs again, and nothing else. Not here: what would run by a recipe and a data spec (`minimind plan`).
"""

from collections.abc import Collection, Sequence
from pathlib import Path

from minimind import runtime
from minimind.artifact import Artifact
from minimind.config import Config
from minimind.data.cleaning import FORGET_SOURCE
from minimind.data.forget_list import ForgetList
from minimind.forget.rows import Sought, files_of, kind_of, sources_of
from minimind.lineage import by_age, descendants, in_order


class Again(Config):
    """A stage that must run again."""

    label: str
    fingerprint: str
    """Of what it made the last time; the same for the seconds."""
    seconds: float


class Rerun(Config):
    """The least that must run again."""

    again: list[Again] = []
    """In order."""
    stays: list[str] = []
    """Labels of what is reused."""
    gone: list[str] = []
    """Labels of what no longer can be made: its kind of rows has no other source."""
    edits: list[str] = []
    """What to change first: the data spec, or files."""
    commands: list[str] = []

    @property
    def seconds(self) -> float:
        return sum(stage.seconds for stage in self.again)


def without_rows(listed: ForgetList, path: Path, artifacts: Sequence[Artifact]) -> Rerun:
    """What must run again once the data spec names the list, which is or will be at `path`."""
    pipeline = newest_pipeline(artifacts)
    known = {one.fingerprint: one for one in pipeline}
    changed, has_list = set[str](), False
    for clean in (one for one in pipeline if one.kind == "clean"):
        ingest = known.get(clean.manifest.parents.get("rows", ""))
        named = listed.of(kind_of(clean), sources_of(ingest) if ingest else {})
        before = clean.manifest.parts.sources.get(FORGET_SOURCE)
        has_list |= before is not None
        if named and named.digest() != before:
            changed.add(clean.fingerprint)
    edit = f'in the data spec, above its first [[source]], write: forget = "{path.expanduser().resolve()}"'
    if has_list:
        edit = f"add the lines of {path} to the list that `forget` in the data spec names already"
    return _rerun(pipeline, changed, set(), [edit])


def without_sources(sought: Sought, artifacts: Sequence[Artifact]) -> Rerun:
    """What must run again once the data spec has these sources and files no more."""
    pipeline = newest_pipeline(artifacts)
    changed, gone, edits = set[str](), set[str](), dict[str, None]()
    for ingest in (one for one in pipeline if one.kind == "ingest"):
        files = {name: [f"{name}/{file}" for file in own] for name, own in files_of(ingest).items()}
        whole = {
            name for name, own in files.items() if name in sought.sources or (own and sought.files.issuperset(own))
        }
        parts = {file for own in files.values() for file in own} & sought.files
        if whole or parts:
            changed.add(ingest.fingerprint)
        if whole.issuperset(files) and kind_of(ingest) == "pretrain":
            edits['give the data spec another [[source]] with rows = "pretrain": a model starts from text'] = None
        elif whole.issuperset(files):
            gone |= {one.fingerprint for one in descendants(pipeline, {ingest.fingerprint})}
        edits |= {f'in the data spec, take out the [[source]] with name = "{name}"': None for name in sorted(whole)}
        for source, file in sorted(one.split("/", 1) for one in parts):
            if source not in whole:
                edits[f"move {file} away from where the source {source} reads"] = None
    return _rerun(pipeline, changed, gone, list(edits))


def newest_pipeline(artifacts: Sequence[Artifact]) -> list[Artifact]:
    """The newest published model and all it was made of, in order; where there is none, the newest of each label."""
    ordered = in_order(artifacts)
    newest = {one.label: one for one in by_age(artifacts)}
    if "publish" not in newest:
        return [one for one in ordered if newest[one.label] is one]
    needed = {newest["publish"].fingerprint}
    for one in reversed(ordered):
        if one.fingerprint in needed:
            needed |= set(one.manifest.parents.values())
    return [one for one in ordered if one.fingerprint in needed]


def _rerun(pipeline: Sequence[Artifact], changed: Collection[str], gone: Collection[str], edits: list[str]) -> Rerun:
    reached = descendants(pipeline, changed)
    lost = [one for one in reached if one.fingerprint in gone and one.kind not in ("evaluate", "publish")]
    again = [one for one in reached if one not in lost]
    if not reached:
        return Rerun(stays=[one.label for one in pipeline])
    return Rerun(
        again=[Again(label=a.label, fingerprint=a.fingerprint, seconds=a.manifest.seconds) for a in again],
        stays=[one.label for one in pipeline if one not in reached],
        gone=[one.label for one in lost],
        edits=edits,
        commands=_commands(pipeline[-1]),
    )


def _commands(newest: Artifact) -> list[str]:
    """The commands by which the pipeline is run again, and what is old is removed."""
    context = newest.manifest.context
    recipe, data = context.get("recipe", "quickstart"), context.get("data", "")
    options = f" --recipe {_named(recipe, 'flows/recipes')}" if recipe != "quickstart" else ""
    options += f" --data {_named(data, 'data_specs')}" if data else " --data DATA_SPEC"
    return [f"minimind plan{options}", f"minimind run{options}", "minimind gc", "minimind gc --yes"]


def _named(name: str, folder: str) -> str:
    """The name of a recipe or data spec that ships; of another one the file, whose directory nobody noted."""
    return name if (runtime.CHECKOUT / folder / f"{name}.toml").exists() else f"{name}.toml"
