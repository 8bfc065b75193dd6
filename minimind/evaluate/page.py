"""The report as pages: `report.html`, whole in one file, and `report.md`.

Both show what `report.json` says and nothing else. A model's words are other people's input: HTML
is escaped by Jinja and the page forbids scripts and anything fetched; Markdown puts them in fences.
"""

import base64
import re
from pathlib import Path
from typing import Any

from minimind.data.pages import template
from minimind.data.wording import duration
from minimind.evaluate.card import Report
from minimind.evaluate.charts import FIGURES_DIR
from minimind.evaluate.results import Answer, Interval
from minimind.lineage import Lineage
from minimind.lineage_picture import draw_lineage
from minimind.runtime import file_sha256

TEMPLATES = Path(__file__).parent / "templates"
HTML_TEMPLATE, MARKDOWN_TEMPLATE = "report.html.j2", "report.md.j2"


def render_html(report: Report, directory: Path) -> str:
    """The page, with the pictures of `directory`/figures in it."""
    pictures = {
        path.name.removesuffix(".png"): "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")
        for path in sorted((directory / FIGURES_DIR).glob("*.png"))
    }
    root = next(node for node in report.lineage if node.fingerprint == report.published_fingerprint)
    lineage = draw_lineage(Lineage(nodes=[root, *(node for node in report.lineage if node is not root)]))
    page = template(TEMPLATES / HTML_TEMPLATE, *_FILTERS, trim=False)
    return page.render(**_names(report), pictures=pictures, lineage=lineage)


def render_markdown(report: Report) -> str:
    """The same in Markdown; pictures are links to figures/."""
    text = template(TEMPLATES / MARKDOWN_TEMPLATE, *_FILTERS, trim=False).render(**_names(report))
    return re.sub(r"\n{3,}", "\n\n", text)


def _names(report: Report) -> dict[str, Any]:
    models = report.evaluation.models
    return {
        "r": report,
        "e": report.evaluation,
        "preferences": {name: model for name, model in models.items() if model.preference},
        "prompts": _by_prompt(report),
    }


def _by_prompt(report: Report) -> dict[str, dict[str, Answer]]:
    """Prompt → model → answer."""
    table: dict[str, dict[str, Answer]] = {}
    for name, model in report.evaluation.models.items():
        for answer in model.answers:
            table.setdefault(answer.prompt, {})[name] = answer
    return table


def template_digests() -> dict[str, str]:
    """Template → sha256: what the pages are made of that no Python module shows."""
    return {name: file_sha256(TEMPLATES / name) for name in (HTML_TEMPLATE, MARKDOWN_TEMPLATE)}


def shown(value: float | str | None) -> str:
    """A figure for people: thousands separated, four significant digits of what is not whole."""
    if value is None:
        return "–"
    if isinstance(value, float) and not value.is_integer():
        return f"{value:,.4g}" if abs(value) < 10_000 else f"{value:,.0f}"
    return value if isinstance(value, str) else f"{value:,.0f}"


def interval(value: Interval) -> str:
    return f"{value.low:.3f} – {value.high:.3f}"


def date(iso: str) -> str:
    """An ISO time to the minute, with its zone named: all manifests are in UTC."""
    return iso[:16].replace("T", " ") + " UTC"


def fenced(text: str) -> str:
    """A code block whose fence is longer than any run of backticks in the text."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


_FILTERS = (shown, interval, duration, date, fenced)
