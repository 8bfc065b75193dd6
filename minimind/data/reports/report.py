"""The data report: what became of every row, as a page and as a summary, drawn from the ledgers alone.

    report.html  one file without scripts; nothing is fetched, so it can be mailed or opened from a disk
    report.md    the tables of it; shown by the command line and in Prefect

Texts in it are other people's: HTML is escaped by Jinja and the page forbids scripts and anything fetched, and
Markdown has names and figures only. Equal ledgers and facts give equal bytes.
Not here: what is shown (`report_figures`), the ledgers (`ledger`), a model's report card (`minimind.evaluate`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minimind import runtime
from minimind.artifact import MANIFEST_FILE, open_artifact
from minimind.data.ledger import LEDGER_FILE, READ_LEDGER_FILE, Ledger
from minimind.data.pages import template
from minimind.data.reports.report_figures import Figures, figures_of
from minimind.data.reports.report_rules import ABOUT
from minimind.errors import MissingError

HTML_FILE, MARKDOWN_FILE = "report.html", "report.md"
TEMPLATES = Path(__file__).parent / "templates"


def write_report(out_dir: Path, *, title: str, read: Ledger | None, cleaned: Ledger, facts: Mapping[str, str]) -> None:
    """Write report.html and report.md.

    `facts` are shown below the title as they are: data spec, fingerprints; a value that is a web address becomes
    a link. `read` is the ledger of reading, whose bytes are those of the files; cleaning's are those of the texts.
    """
    figures = figures_of(read, cleaned)
    names = {"title": title, "facts": facts, "f": figures, "about": ABOUT, **_sums(figures)}
    for file in (HTML_FILE, MARKDOWN_FILE):
        # Half characters, which UTF-8 cannot hold, were spelled out by `visible`; a title may still have one.
        page = template(TEMPLATES / f"{file}.j2").render(names)
        runtime.write_atomic(out_dir / file, page.encode("utf-8", "replace"))


def report_of(directory: Path) -> Path:
    """The page of a cleaning's artifact or output directory; drawn from its ledgers where it is not there yet.

    Raises MissingError where there is neither a page nor a ledger, ArtifactError for a damaged ledger.
    """
    page = directory / HTML_FILE
    if page.exists() and (directory / MARKDOWN_FILE).exists():
        return page
    if not (directory / LEDGER_FILE).exists():
        raise MissingError(
            f"{directory}: no {HTML_FILE} and no {LEDGER_FILE} here; give the directory of an artifact of the "
            "stage clean, or the one that `minimind data clean --out` wrote"
        )
    cleaned = Ledger.read(directory)
    read = Ledger.read(directory, READ_LEDGER_FILE) if (directory / READ_LEDGER_FILE).exists() else None
    write_report(directory, title="Data report", read=read, cleaned=cleaned, facts=_facts_of(directory))
    return page


def read_report_text(directory: Path) -> str:
    """The summary of a directory, for the command line."""
    return report_of(directory).with_name(MARKDOWN_FILE).read_text(encoding="utf-8")


def _facts_of(directory: Path) -> dict[str, str]:
    """What is known of a directory whose report was not written by the stage: its manifest's, or its name."""
    if not (directory / MANIFEST_FILE).exists():
        return {"directory": directory.name}
    manifest = open_artifact(directory).manifest
    return {manifest.kind: manifest.fingerprint, **manifest.parents, **manifest.context}


def _sums(figures: Figures) -> dict[str, Any]:
    return {
        "rows_dropped": sum(step.rows for step in figures.steps),
        "most_at_once": max((max(step.rows, step.changed) for step in figures.steps), default=1),
        "row_changes": sum(step.changed for step in figures.steps),
        "copies_dropped": sum(bucket.dropped for bucket in figures.cluster_sizes),
    }
