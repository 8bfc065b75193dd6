"""A sweep as `sweep.md`, as `sweep.html`, whole in one file, and its directory with all of them."""

import base64
from collections.abc import Sequence
from pathlib import Path

from minimind import runtime
from minimind.data.pages import template
from minimind.data.wording import cell
from minimind.sweep.charts import CAPTIONS, FIGURES_DIR, draw_all
from minimind.sweep.comparison import SWEEP_FILE, Comparison
from minimind.sweep.table import Table, points_table, render_csv, seeds_table

TEMPLATE = Path(__file__).parent / "templates" / "sweep.html.j2"
PAGE_FILE, MARKDOWN_FILE, TABLE_FILE = "sweep.html", "sweep.md", "sweep.csv"


def sweep_dir(name: str) -> Path:
    """Where the table, the page and the pictures of a sweep are; `name` is its id."""
    return runtime.home() / "sweeps" / name


def write_all(comparison: Comparison, directory: Path) -> None:
    """`sweep.json` and all that is drawn from it: the table, the pictures, the page."""
    write(comparison, directory)
    pictures = draw_all(comparison, directory / FIGURES_DIR)
    runtime.write_atomic(directory / TABLE_FILE, render_csv(comparison))
    runtime.write_atomic(directory / MARKDOWN_FILE, render_markdown(comparison, pictures))
    runtime.write_atomic(directory / PAGE_FILE, render_html(comparison, directory, pictures))


def write(comparison: Comparison, directory: Path) -> None:
    """`sweep.json` alone."""
    directory.mkdir(parents=True, exist_ok=True)
    comparison.write(directory / SWEEP_FILE)


def render_markdown(comparison: Comparison, pictures: Sequence[str] = ()) -> str:
    """The tables, what is to be said of them, and links."""
    lines = [f"# {heading(comparison)}", "", subtitle(comparison), ""]
    links = {"MLflow run": comparison.mlflow, "Prefect run": comparison.prefect}
    lines.append(" · ".join(f"[{name}]({link})" for name, link in links.items() if link))
    seeds = seeds_table(comparison)
    lines += [*(["", *_markdown(seeds)] if seeds else []), "", *_markdown(points_table(comparison)), ""]
    lines += [f"- {cell(line)}" for line in sayings(comparison)]
    for name in pictures:
        lines += ["", f"![{CAPTIONS[name]}]({FIGURES_DIR}/{name}.png)"]
    return "\n".join(lines) + "\n"


def render_html(comparison: Comparison, directory: Path, pictures: Sequence[str]) -> str:
    """The page, with the pictures in it."""
    drawn = {
        name: base64.b64encode((directory / FIGURES_DIR / f"{name}.png").read_bytes()).decode("ascii")
        for picture in pictures
        for name in (picture, f"{picture}.dark")
    }
    return template(TEMPLATE).render(
        c=comparison,
        heading=heading(comparison),
        subtitle=subtitle(comparison),
        points=points_table(comparison),
        seeds=seeds_table(comparison),
        sayings=sayings(comparison),
        pictures=pictures,
        captions=CAPTIONS,
        drawn=drawn,
    )


def heading(comparison: Comparison) -> str:
    return f"Sweep of {comparison.stage}: {' × '.join(comparison.names)}"


def subtitle(comparison: Comparison) -> str:
    """What was compared, by what, and under which settings."""
    done = sum(result.state != "waiting" for result in comparison.results)
    counted = f"{done} of {len(comparison.results)} points" if not comparison.finished else f"{done} points"
    fixed = f"; {', '.join(comparison.fixed)} for all" if comparison.fixed else ""
    return f"Recipe {comparison.recipe}, {counted}, by {comparison.metric.words}{fixed}."


def sayings(comparison: Comparison) -> list[str]:
    """What is to be said below the table."""
    inputs = [f"all points read {name} {version}" for name, version in comparison.inputs.items()]
    return [*moves(comparison), *comparison.notes(), *inputs]


def moves(comparison: Comparison) -> list[str]:
    """Where the aliases are now."""
    return [
        f"{move.alias} is {move.now}"
        + (f", before the sweep {move.before}" if move.before not in (None, move.now) else "")
        for move in comparison.moved
    ]


def _markdown(table: Table) -> list[str]:
    lines = [" | ".join(("", *table.titles, "")).strip()]
    lines.append("|" + "".join("---|" if place < table.words else "---:|" for place in range(len(table.titles))))
    for row in table.rows:
        cells = (f"**{cell(text)}**" if row.best and text else cell(text) for text in row.cells)
        lines.append(" | ".join(("", *cells, "")).strip())
    return lines
