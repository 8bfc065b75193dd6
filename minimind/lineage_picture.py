"""A lineage as a picture: SVG, from the sources on the left to the model on the right. Needs no script and no font."""

from collections.abc import Mapping
from html import escape

from minimind.lineage import Lineage, Node

COLUMN, ROW = 196, 58
"""Pixels from box to box."""
WIDTH, HEIGHT = 152, 40
"""Pixels of a box."""
MARGIN = 16
ROWS = ("pretrain", "chat", "preference", "lora", "prompt")
Places = Mapping[str, tuple[int, int]]
STYLE = """
.lineage .box{fill:#f4f6fa;stroke:#8796b0}.lineage .root{fill:#e4f3e8;stroke:#3a7d4f}
.lineage .gone{fill:#fff6e5;stroke:#c90}.lineage .way{fill:none;stroke:#8796b0;stroke-width:1.2}
.lineage .name{font:600 12px sans-serif;fill:#1c2433}.lineage .print{font:10px monospace;fill:#5a6780}
@media(prefers-color-scheme:dark){.lineage .box{fill:#1d2430}.lineage .root{fill:#17301f}.lineage .gone{fill:#33280f}
.lineage .name{fill:#e6eaf2}.lineage .print{fill:#9aa7bf}}
"""
"""With a class of its own: inside a page it counts for the whole page."""


def draw_lineage(lineage: Lineage) -> str:
    """The lineage as one SVG element; every box has its sources and figures as a tooltip."""
    places = _places(lineage)
    columns = 1 + max(column for column, _ in places.values())
    rows = 1 + max(row for _, row in places.values())
    width, height = 2 * MARGIN + (columns - 1) * COLUMN + WIDTH, 2 * MARGIN + (rows - 1) * ROW + HEIGHT
    drawn = [node for node in lineage.nodes if node.fingerprint in places]
    ways = [_way(places[one], places[node.fingerprint]) for node in drawn for one in _drawn_inputs(node, places)]
    boxes = [_box(lineage, node, places[node.fingerprint]) for node in drawn]
    title = escape(f"lineage of {lineage.root.label} {lineage.root.fingerprint}")
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            f'class="lineage" role="img"><title>{title}</title><style>{STYLE}</style>',
            *ways,
            *boxes,
            "</svg>\n",
        ]
    )


def _drawn_inputs(node: Node, places: Places) -> list[str]:
    """The arrows into a box; of a published model only the one from the model."""
    inputs = list(dict.fromkeys(node.inputs.values()))
    if node.kind == "publish":
        inputs = [one for one in inputs if one == node.figures.get("model_fingerprint")] or inputs
    return [fingerprint for fingerprint in inputs if fingerprint in places]


def _places(lineage: Lineage) -> dict[str, tuple[int, int]]:
    """Fingerprint → (column, row): right of all it was made of, each kind of rows and what learns from it in a row."""
    places: dict[str, tuple[int, int]] = {}
    _place(lineage, lineage.root, places, {node.fingerprint: (0, 0) for node in lineage.nodes})
    return places


def _place(lineage: Lineage, node: Node, places: dict[str, tuple[int, int]], everything: Places) -> None:
    if node.fingerprint in places:
        return
    inputs = _drawn_inputs(node, everything)
    for fingerprint in inputs:
        _place(lineage, lineage.node(fingerprint), places, everything)
    column = max((places[fingerprint][0] + 1 for fingerprint in inputs), default=0)
    row = _wanted_row(node, inputs, places)
    while (column, row) in places.values():
        row += 1
    places[node.fingerprint] = (column, row)


def _wanted_row(node: Node, inputs: list[str], places: Places) -> int:
    """That of its kind of rows; a model's is that of its tokens."""
    if node.config.get("rows") in ROWS:
        return ROWS.index(node.config["rows"])
    beside = node.inputs.get("tokens")
    neighbour = beside if beside in inputs else next(iter(inputs), None)
    return places[neighbour][1] if neighbour else 0


def _corner(place: tuple[int, int]) -> tuple[int, int]:
    return MARGIN + place[0] * COLUMN, MARGIN + place[1] * ROW


def _way(start: tuple[int, int], end: tuple[int, int]) -> str:
    (x0, y0), (x1, y1) = _corner(start), _corner(end)
    x0, y0, y1 = x0 + WIDTH, y0 + HEIGHT // 2, y1 + HEIGHT // 2
    half = (x0 + x1) // 2
    return f'<path class="way" d="M{x0} {y0}C{half} {y0} {half} {y1} {x1} {y1}"/>'


def _box(lineage: Lineage, node: Node, place: tuple[int, int]) -> str:
    x, y = _corner(place)
    kind = "root" if node is lineage.root else "gone" if node.path is None else "box"
    facts = [*(f"source {name} {digest}" for name, digest in node.sources.items())]
    facts += [f"{name} {value}" for name, value in node.figures.items()]
    return (
        f"<g><title>{escape(chr(10).join([f'{node.label} {node.fingerprint}', *facts]))}</title>"
        f'<rect class="{kind}" x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="6"/>'
        f'<text class="name" x="{x + 10}" y="{y + 17}">{escape(node.label)}</text>'
        f'<text class="print" x="{x + 10}" y="{y + 31}">{node.fingerprint}</text></g>'
    )
