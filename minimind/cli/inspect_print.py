"""How what `minimind lint`, `trace` and `ledger` found looks in a terminal."""

from collections.abc import Mapping
from itertools import groupby

from rich.console import Console
from rich.table import Table
from rich.text import Text

from minimind.tokens.lint_rules import RULES, LintReport
from minimind.tokens.token_ledger_books import Account, TokenLedger
from minimind.tokens.trace import RowSeen, TextTrace
from minimind.tokens.trace_step import StepTrace

_COLOURS = {"error": "red", "warning": "yellow"}
_STEPS_SHOWN = 12


def print_lint(report: LintReport, console: Console) -> None:
    """Rule by rule: what it means, where it was found, what to do."""
    for name, findings in groupby(report.findings, key=lambda finding: finding.rule):
        rule, count = RULES[name], report.counts[name]
        console.print(
            Text.assemble((f"\n{rule.level} ", f"bold {_COLOURS[rule.level]}"), (name, "bold"), f"  {count:,}"),
            Text(f"  {rule.about}", "bright_black"),
            sep="\n",
            soft_wrap=True,
        )
        shown = 0
        for finding in findings:
            shown += 1
            console.print(Text.assemble("  ", (str(finding.place), "cyan"), f"  {finding.detail}"), soft_wrap=True)
            if finding.excerpt:
                console.print(Text(f"      {_line(finding.excerpt)}", "bright_black"), soft_wrap=True)
        if name != "unusable_row" and count > shown:
            console.print(f"  … and {count - shown:,} more", highlight=False)
        console.print(f"  → {rule.remedy}", highlight=False, markup=False, soft_wrap=True)
    for line in report.skipped:
        console.print(Text(f"\nnot looked at: {line}", "bright_black"), soft_wrap=True)
    warnings = sum(report.counts.values()) - report.errors
    console.print(
        f"\n{report.rows:,} {report.kind} {report.unit}: {report.errors:,} errors, {warnings:,} warnings",
        highlight=False,
    )


def print_text_trace(trace: TextTrace, registered: Mapping[str, str], console: Console) -> None:
    """Row by row with the steps that had it, then what did not come through, then the models with their URIs."""
    for row in trace.rows:
        _print_row(row, console)
    seen = [one for row in trace.rows for document in row.documents for one in document.trainings]
    for name in dict.fromkeys(f"{one.training} {one.fingerprint}" for one in seen if one.changed_code):
        told = f"{name} was trained by another version: the code that chooses rows changed since, its steps were others"
        console.print(Text(told, "yellow"), soft_wrap=True)
    if trace.rows_found > len(trace.rows):
        more = trace.rows_found - len(trace.rows)
        console.print(f"… and {more:,} more rows (--limit follows more)", highlight=False)
    for logged in trace.logged:
        place = f"{logged.source}{'/' + logged.file if logged.file else ''}:{logged.line}"
        console.print(
            Text.assemble((f"{logged.what} ", "yellow"), (place, "cyan"), f"  by {logged.stage}: {logged.why}"),
            Text(f"      {_line(logged.excerpt)}", "bright_black"),
            sep="\n",
            soft_wrap=True,
        )
    if trace.models:
        console.print("models that learnt from it", highlight=False, style="bold")
    for fingerprint, name in trace.models.items():
        others = [f"{trace.models.get(one, '')} {one}" for one in trace.learnt_by[fingerprint] if one != fingerprint]
        told = [
            f"{name} {fingerprint}",
            registered.get(fingerprint, ""),
            f"made of {', '.join(others)}" if others else "",
        ]
        console.print(f"    {'  '.join(filter(None, told))}", highlight=False, markup=False, soft_wrap=True)
    if not trace.rows and not trace.logged:
        console.print("no row of any corpus in the store has this text, nor any log of rows left out", highlight=False)


def print_step(trace: StepTrace, console: Console) -> None:
    """A line for each piece of a document."""
    console.print(
        f"{trace.training} {trace.fingerprint}, step {trace.step} (epoch {trace.epoch}), {trace.token_set}",
        highlight=False,
    )
    if trace.changed_code:
        told = (
            f"trained by another version: {', '.join(trace.changed_code)} changed since; this is not what it was given"
        )
        console.print(Text(told, "yellow"), soft_wrap=True)
    for row, pieces in groupby(trace.pieces, key=lambda piece: (piece.row, piece.side, piece.item)):
        console.print(f"row {row[0]} {row[1]}".rstrip() + f" (item {row[2]})", highlight=False, style="bold")
        for piece in pieces:
            figures = f"{piece.tokens} tokens, {piece.trained} trained"
            if piece.document < 0:
                console.print(Text(f"  put in by augmentation: {figures}", "bright_black"), soft_wrap=True)
                continue
            of_set = f" of set {piece.token_set}" if piece.token_set else ""
            span = f"tokens {piece.start}–{piece.start + piece.tokens - 1} (offset {piece.offset:,})"
            source = (f"{piece.source}:{piece.line}" if piece.source else "source unknown", "cyan")
            where = f"  {piece.id}  document {piece.document}{of_set} {span}: {figures}"
            console.print(Text.assemble("  ", source, where), soft_wrap=True)
    for source, digest in trace.sources.items():
        console.print(Text.assemble("source ", source, (f"  {digest[:16]}", "bright_black")), soft_wrap=True)
    tokens, trained = sum(piece.tokens for piece in trace.pieces), sum(piece.trained for piece in trace.pieces)
    console.print(f"{len(trace.pieces):,} pieces, {tokens:,} tokens, {trained:,} trained", highlight=False)


def print_ledger(books: TokenLedger, console: Console) -> None:
    """A column for each source, then the trainings, then whether all of it balances."""
    for kind, accounts in groupby(books.accounts, key=lambda account: account.kind):
        console.print(_table(kind, list(accounts)))
    trainings = Table("training", "", "token set", "steps", "epochs", "tokens", "trained")
    for one in books.trainings:
        figures = (f"{one.steps:,}", f"{one.epochs:g}", _figure(one.tokens), _figure(one.trained_tokens))
        trainings.add_row(one.training, one.fingerprint[:8], one.token_set, *figures)
    if books.trainings:
        console.print(trainings)
    for line in books.uncounted:
        console.print(Text(f"not counted: {line}", "bright_black"), soft_wrap=True)
    if books.balances:
        console.print(f"[green]✓[/green] {books.checks:,} equations hold, to the unit", highlight=False)
        return
    for line in books.imbalances:
        console.print(Text.assemble(("✗ ", "red"), line), soft_wrap=True)
    console.print(f"{len(books.imbalances):,} of {books.checks:,} equations do not hold", highlight=False)


def _print_row(row: RowSeen, console: Console) -> None:
    console.print(
        Text.assemble(
            (f"{row.source}:{row.line}", "bold cyan"),
            f"  row {row.id}, {row.corpus} {row.fingerprint} {row.split} row {row.row}, {row.field}, "
            f"byte {row.byte_offset:,}",
        ),
        soft_wrap=True,
    )
    for document in row.documents:
        more = f", {document.occurrences} times" if document.occurrences > 1 else ""
        tokens = f"tokens {document.first_token}–{document.last_token}{more}"
        console.print(
            f"    {document.token_set} {document.fingerprint} document {document.document}, {tokens} "
            f"(offset {document.offset:,})",
            highlight=False,
            soft_wrap=True,
        )
        for one in document.trainings:
            steps = ", ".join(map(str, one.steps[:_STEPS_SHOWN])) + (" …" if len(one.steps) > _STEPS_SHOWN else "")
            told = f"step {steps}" if one.steps else "not in its steps"
            console.print(f"        {one.training} {one.fingerprint}: {told}", highlight=False, soft_wrap=True)
    if row.split == "val":
        console.print("    for validation only: nothing is learnt from it", highlight=False)
    elif not row.documents:
        console.print("    in no token set of the store as it stands", highlight=False)


def _table(kind: str, accounts: list[Account]) -> Table:
    """The way of the rows of one kind, downwards; every source is a column, and there is one for all of them."""
    table = Table(kind, *(account.source for account in accounts), "all", title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"

    def line(name: str, values: list[int], *, always: bool = True) -> None:
        if always or any(values):
            table.add_row(name, *(f"{value:,}" for value in values), f"{sum(values):,}")

    line("bytes in", [a.bytes_in for a in accounts])
    line("rows in", [a.rows_in for a in accounts])
    for reason in sorted({reason for a in accounts for reason in a.unusable}):
        line(f"  − {reason}", [a.unusable.get(reason, 0) for a in accounts])
    for reason in sorted({reason for a in accounts for reason in a.cleaned}):
        line(f"  − {reason}", [a.cleaned.get(reason, 0) for a in accounts])
    line("clean rows", [a.rows_clean for a in accounts])
    line("  − left out by weight", [a.left_out for a in accounts], always=False)
    line("  + repeated by weight", [a.repeated for a in accounts], always=False)
    for split in ("train", "val"):
        line(f"{split}: rows", [a.rows.get(split, 0) for a in accounts])
        line("  − too long", [a.too_long.get(split, 0) for a in accounts], always=False)
        line("  documents", [a.documents.get(split, 0) for a in accounts], always=False)
        line("  tokens", [a.tokens.get(split, 0) for a in accounts], always=False)
        line("  trained tokens an epoch", [a.trained_tokens.get(split, 0) for a in accounts], always=False)
    return table


def _figure(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def _line(text: str) -> str:
    return " ".join(text.split())
