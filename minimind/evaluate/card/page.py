"""The report as pages: `report.html`, whole in one file, and `report.md`.

Both show what `report.json` says and nothing else. A model's words are other people's input: HTML
is escaped by Jinja and the page forbids scripts and anything fetched; Markdown puts them in fences.
"""

import base64
import re
from itertools import groupby
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from minimind.data.pages import template
from minimind.data.wording import duration, visible
from minimind.evaluate.card.card import Cost, FailedAnswer, MaskView, Report
from minimind.evaluate.card.charts import FIGURES_DIR, task_pictures
from minimind.evaluate.card.tables import MOST_LEAKS, leaked_items, said_cells, task_tables, unchecked_trainings
from minimind.evaluate.card.wording import amount
from minimind.evaluate.results import OPEN_ENDED, Answer, ModelResult
from minimind.lineage import Lineage
from minimind.lineage_picture import draw_lineage
from minimind.runtime import file_sha256

TEMPLATES = Path(__file__).parent / "templates"
HTML_TEMPLATE, MARKDOWN_TEMPLATE = "report.html.j2", "report.md.j2"
LONGEST_HEAD = 40
"""Letters of the words before a warning's colon that say what it is about."""


def render_html(report: Report, directory: Path) -> str:
    """The page, with the pictures of `directory`/figures in it."""
    pictures = {
        path.name.removesuffix(".png"): "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")
        for path in sorted((directory / FIGURES_DIR).glob("*.png"))
    }
    root = next(node for node in report.lineage if node.fingerprint == report.published_fingerprint)
    lineage = draw_lineage(Lineage(nodes=[root, *(node for node in report.lineage if node is not root)]))
    page = template(TEMPLATES / HTML_TEMPLATE, *_FILTERS)
    return page.render(**_names(report), pictures=pictures, lineage=lineage)


def render_markdown(report: Report) -> str:
    """The same in Markdown; pictures are links to figures/."""
    text = template(TEMPLATES / MARKDOWN_TEMPLATE, *_FILTERS).render(**_names(report))
    return re.sub(r"\n{3,}", "\n\n", text)


def _names(report: Report) -> dict[str, Any]:
    """What the templates know: the report, and its parts as they are laid out."""
    evaluation = report.evaluation
    tables = task_tables(evaluation)
    names = {
        "r": report,
        "e": evaluation,
        "models": list(evaluation.models),
        "tables": tables,
        "titles": {table.name: table.leading.title for table in tables},
        "pictures_of": task_pictures(evaluation),
        "leaked": leaked_items(evaluation),
        "most_leaks": MOST_LEAKS,
        "unchecked": unchecked_trainings(evaluation),
        "refused": [ruling for ruling in report.gate if ruling.passed is False],
        "prompts": _by_prompt(report),
        "said": said_cells(evaluation),
        "checked": {
            table.name: [_passed(result, table.name) for result in evaluation.models.values()]
            for table in tables
            if table.kind == "prompts" and table.name != OPEN_ENDED
        },
        "failed": _failed(report),
    }
    return {**names, "contents": _contents(report, names)}


def _contents(report: Report, names: dict[str, Any]) -> dict[str, str]:
    """Anchor → title of the parts that this page has."""
    parts = {
        "warnings": ("Warnings", report.warnings),
        "gate": ("Gate", report.gate),
        "figures": ("Figures", True),
        "contamination": ("Seen before", True),
        "answers": ("Answers", names["prompts"]),
        "checked": ("Checked answers", names["checked"]),
        "trainings": ("Trainings", report.trainings),
        "data": ("Data", report.funnels or report.mixtures or report.mask),
        "model": ("Model", True),
        "lineage": ("Lineage", True),
        "again": ("Make it again", True),
    }
    return {anchor: title for anchor, (title, content) in parts.items() if content}


def _passed(result: ModelResult, task: str) -> str:
    """`12 of 40`."""
    found = result.figure(task, "passed")
    return f"{round(found.value * found.n)} of {found.n}" if found else "–"


def _failed(report: Report) -> dict[str, dict[tuple[str, str], list[FailedAnswer]]]:
    """Task → item and prompt → the answers of models that failed at it."""
    table: dict[str, dict[tuple[str, str], list[FailedAnswer]]] = {}
    for one in report.failed_answers:
        table.setdefault(one.task, {}).setdefault((one.item, one.prompt), []).append(one)
    return table


def _by_prompt(report: Report) -> dict[str, dict[str, Answer]]:
    """Prompt → model → answer."""
    table: dict[str, dict[str, Answer]] = {}
    for name, model in report.evaluation.models.items():
        for answer in model.answers:
            table.setdefault(answer.prompt, {})[name] = answer
    return table


def template_digests() -> dict[str, str]:
    """Template → sha256: what the pages are made of that no Python module shows."""
    return {path.name: file_sha256(path) for path in sorted(TEMPLATES.glob("report*.j2"))}


def shown(value: float | str | None) -> str:
    """A figure for people: thousands separated, four significant digits of what is not whole."""
    if value is None:
        return "–"
    if isinstance(value, float) and not value.is_integer():
        return f"{value:,.4g}" if abs(value) < 10_000 else f"{value:,.0f}"
    return value if isinstance(value, str) else f"{value:,.0f}"


def bits(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def cost(value: Cost) -> str:
    """`1.2 core-hours, 0.4 GPU-hours; 3.50 at the given price`."""
    used = [(value.core_hours, "core-hours"), (value.gpu_hours, "GPU-hours")]
    hours = ", ".join(f"{amount(hours)} {unit}" for hours, unit in used if hours) or "nothing worth a figure"
    return hours if value.money is None else f"{hours}; {value.money:,.2f} at the given price of an hour"


def headed(warning: str) -> tuple[str, str]:
    """A warning's first words, if a colon ends them, and the rest."""
    head, colon, rest = warning.partition(": ")
    return (head, rest) if colon and len(head) <= LONGEST_HEAD else ("", warning)


def coded(text: str) -> Markup:
    """HTML of a text in which what stands between backticks is code."""
    parts = [escape(visible(part)) for part in text.split("`")]
    if len(parts) % 2 == 0:  # one of them has no partner
        return escape(visible(text))
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if place % 2 else part for place, part in enumerate(parts)
    )


def marked(mask: MaskView) -> str:
    """The tokens of a chat as text, what is learnt between ⟦ and ⟧."""
    runs = groupby(mask.pieces, key=lambda piece: piece.trained)
    texts = [(trained, "".join(piece.text for piece in pieces)) for trained, pieces in runs]
    return "".join(f"⟦{text}⟧" if trained else text for trained, text in texts)


def date(iso: str) -> str:
    """An ISO time to the minute, with its zone named: all manifests are in UTC."""
    return iso[:16].replace("T", " ") + " UTC"


def fenced(text: str) -> str:
    """A code block whose fence is longer than any run of backticks in the text."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


_FILTERS = (shown, bits, cost, headed, coded, marked, duration, date, fenced)
