"""A view of the microscope in a terminal.

Trained tokens are on green; where there is no colour they stand between « and ». Tokens are divided by thin bars,
special tokens are magenta, and a line feed is shown and made.
"""

from rich.console import Console
from rich.text import Text

from minimind.tokens.microscope import RowView, Segment, Token, View

_TRAINED, _SPECIAL, _EDGE, _SOFT = "black on pale_green3", "magenta", "bold cyan", "bright_black"


def print_view(view: View, console: Console, *, ids: bool = False) -> None:
    """Print a view; with `ids` each token's number stands behind it."""
    facts = "  ".join(f"{name} {value}" for name, value in view.facts.items())
    console.print(Text.assemble((view.title, "bold"), "  ", (facts, _SOFT)), soft_wrap=True)
    coloured = console.color_system is not None
    for row in view.rows:
        console.print(_heading(row), soft_wrap=True)
        for segment in row.segments:
            console.print(_border(segment), soft_wrap=True)
            console.print(_words(segment, ids=ids, coloured=coloured), soft_wrap=True)
        if row.padding:
            console.print(Text(f"░░░ {row.padding} positions of padding ░░░", _SOFT))
    if view.rows_left_out:
        console.print(Text(f"… and {view.rows_left_out} more rows (--rows shows more)", _SOFT))
    legend = Text.assemble(("trained", _TRAINED)) if coloured else Text("«trained»")
    console.print(Text.assemble(legend, "  not trained  ", ("special", _SPECIAL), "  → the label of the last position"))


def _heading(row: RowView) -> Text:
    side = f" {row.side}" if row.side else ""
    return Text(
        f"\nrow {row.row}{side}  ({row.of} {row.item}; {row.num_tokens} tokens, {row.num_trained} trained, "
        f"{row.padding} padding)",
        "bold",
    )


def _border(segment: Segment) -> Text:
    last = len(segment.tokens) - 1
    part = f", from its token {segment.start} on" if segment.start else ""
    source = f" · {segment.source}" if segment.source else ""
    columns = f" · columns {segment.column}–{segment.column + last}" if segment.column else ""
    mixed = f" of token set {segment.token_set}" if segment.token_set else ""
    document = f"document {segment.document}{mixed}" if segment.document >= 0 else "put in by augmentation"
    return Text(f"┌ {document}{part}{source} · positions 0–{last}{columns}", _EDGE)


def _words(segment: Segment, *, ids: bool, coloured: bool) -> Text:
    text, inside = Text(), False
    for token in segment.tokens:
        if token.trained != inside and not coloured:
            text.append("«" if token.trained else "»")
        inside = token.trained
        _append(text, token, ids)
    if inside and not coloured:
        text.append("»")
    if segment.then:
        text.append(" → ", _SOFT)
        _append(text, segment.then, ids)
    return text


def _append(text: Text, token: Token, ids: bool) -> None:
    style = _TRAINED if token.trained else (_SPECIAL if token.special else "")
    lines = token.text.count("\n")
    text.append(token.text.replace("\n", "⏎"), style)
    text.append((f"⟨{token.id}⟩" if ids else "|") + "\n" * lines, _SOFT)
