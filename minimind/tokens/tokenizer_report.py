"""The tokenizer's report: what it makes of every row of the corpus, its vocabulary, and other vocabularies beside it.

    report.json  all figures (`TokenizerReport`)
    report.html  the same as a page with pictures; one file without scripts, nothing is fetched
    report.md    the tables; shown by the command line and in Prefect

The stage writes it; `minimind tokenizer report --sweep` writes one with other sizes. Equal figures give equal bytes.
Not here: the counting (`tokenizer_tally`), the pictures (`tokenizer_figures`), the sweep (`tokenizer_sweep`).
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from minimind import runtime
from minimind.config import Config
from minimind.data import wording
from minimind.data.pages import template
from minimind.tokens import tokenizer_figures
from minimind.tokens.tokenizer import Tokenizer
from minimind.tokens.tokenizer_sweep import SweepLine
from minimind.tokens.tokenizer_tally import Amount, Tally

JSON_FILE, HTML_FILE, MARKDOWN_FILE = "report.json", "report.html", "report.md"
TEMPLATES = Path(__file__).parent / "templates"
RARE = 100
"""A token seen less often in the training rows is rare: a model sees it too seldom to learn what it means."""
SHOWN, SOURCES_SHOWN = 60, 40
EXAMPLES = (
    "The year 1984, 3.14159 and 1,000,000.",
    "def f(x):\n\tif x > 10:\n        return x  # blanks\n\n\n",
    "don't stop; (self.name) https://example.org/a_b",
    "今天天气很好，我们去公园散步。",
    "naïve café 😀 العربية",
)
"""Digits, blanks and line feeds, punctuation, Chinese, and what is rare."""


class Line(Config):
    """Texts of one language or source."""

    name: str
    documents: int
    bytes: int
    tokens: int
    spelt: int
    """Tokens that are single bytes of characters."""
    bytes_per_token: float


class Split(Config):
    """Training or validation rows."""

    total: Line
    languages: list[Line]
    sources: list[Line]


class Token(Config):
    id: int
    text: str
    count: int
    """In the training rows."""


class Cut(Config):
    """A text and the tokens it is cut into."""

    text: str
    tokens: list[str]


class CoverageTrial(Config):
    coverage: float
    bytes_per_token: float | None


class TokenizerReport(Config):
    """All that the pages show."""

    vocab_size: int
    origin: str
    """`trained`, or the file it was taken from."""
    character_coverage: float | None
    coverage_trials: list[CoverageTrial]
    specials: list[Token]
    splits: dict[str, Split]
    documents: int
    """Of all rows, training and validation, that were encoded and decoded."""
    round_trip_failures: int
    failed: list[str]
    used_tokens: int
    """Ordinary tokens that the training rows have."""
    unused_tokens: int
    rare_tokens: int
    unused: list[Token]
    longest: list[Token]
    frequent: list[Token]
    rarest: list[Token]
    """Of those that are used."""
    lengths: dict[int, int]
    """Characters of a token → how many tokens are so long; bytes of characters count as 0."""
    ranks: list[tuple[int, int]]
    """Rank by frequency → count, at powers of the square root of 2."""
    spelt_characters: list[tuple[str, int]]
    cuts: list[Cut]
    sweep: list[SweepLine] = []
    sweep_bytes: int = 0
    """Text that the vocabularies of the sweep were learnt from."""


def make_report(
    tokenizer: Tokenizer,
    tally: Tally,
    *,
    origin: str,
    coverage: float | None = None,
    trials: Iterable[CoverageTrial] = (),
) -> TokenizerReport:
    """The report on a tokenizer and the corpus it was counted over."""
    special = tokenizer.specials.named()
    texts = [_shown(tokenizer, index) for index in range(tokenizer.vocab_size)]
    ordinary = [index for index, raw in enumerate(tokenizer.piece_bytes()) if raw]
    counts = tally.counts_V
    tokens = {index: Token(id=index, text=texts[index], count=int(counts[index])) for index in ordinary}
    learnt = [token for index, token in tokens.items() if index not in tokenizer.spelt]
    used = [token for token in learnt if token.count]
    by_count = sorted(used, key=lambda token: (-token.count, token.id))
    return TokenizerReport(
        vocab_size=tokenizer.vocab_size,
        origin=origin,
        character_coverage=coverage,
        coverage_trials=list(trials),
        specials=[Token(id=i, text=tokenizer.pieces()[i], count=0) for i in sorted(special)],
        splits={split: _split(tally, split) for split in sorted({key[0] for key in tally.amounts})},
        documents=sum(amount.documents for amount in tally.amounts.values()),
        round_trip_failures=tally.failures,
        failed=[wording.visible(text) for text in tally.failed],
        used_tokens=len(used),
        unused_tokens=len(learnt) - len(used),
        rare_tokens=sum(token.count < RARE for token in used),
        unused=[token for token in learnt if not token.count][:SHOWN],
        longest=sorted(learnt, key=lambda token: (-len(token.text), token.text))[:SHOWN],
        frequent=by_count[:SHOWN],
        rarest=by_count[: -SHOWN - 1 : -1],
        lengths=dict(sorted(Counter(_length(tokenizer, token) for token in tokens.values()).items())),
        ranks=_ranks(counts),
        spelt_characters=[(wording.visible(c), n) for c, n in tally.spelt.most_common(SHOWN)],
        cuts=[Cut(text=text, tokens=pieces_of(tokenizer, text)) for text in EXAMPLES],
    )


def pieces_of(tokenizer: Tokenizer, text: str) -> list[str]:
    """What the tokens of `text` stand for, in words that can be shown."""
    return [_shown(tokenizer, index) for index in tokenizer.encode(text)]


def write_report(report: TokenizerReport, out_dir: Path) -> Path:
    """Write report.json, report.html and report.md; the page's path."""
    runtime.write_json(out_dir / JSON_FILE, report.model_dump(mode="json"))
    names = {"r": report, "rare": RARE, "figures": tokenizer_figures, "held_out": held_out_of(report)}
    for file in (HTML_FILE, MARKDOWN_FILE):
        page = template(TEMPLATES / f"tokenizer_{file}.j2", short, picture_rows, sweep_rows).render(names)
        runtime.write_atomic(out_dir / file, page.encode("utf-8", "replace"))
    return out_dir / HTML_FILE


def read_report(directory: Path) -> TokenizerReport:
    """The report in a directory. Raises MissingError or ArtifactError."""
    return TokenizerReport.read_json(directory / JSON_FILE, remedy="give a tokenizer's artifact, or build it again")


def held_out_of(report: TokenizerReport) -> str:
    """The split whose compression counts: the validation rows where there are some."""
    return "val" if "val" in report.splits else "train"


def _split(tally: Tally, split: str) -> Split:
    found = {key[1:]: amount for key, amount in tally.amounts.items() if key[0] == split}
    return Split(
        total=_line("all", found.values()),
        languages=_lines((language, amount) for (_, language), amount in found.items()),
        sources=_lines((source, amount) for (source, _), amount in found.items())[:SOURCES_SHOWN],
    )


def _lines(items: Iterable[tuple[str, Amount]]) -> list[Line]:
    """Amounts by name, the largest first."""
    groups: dict[str, list[Amount]] = {}
    for name, amount in items:
        groups.setdefault(name, []).append(amount)
    lines = [_line(name, amounts) for name, amounts in groups.items()]
    return sorted(lines, key=lambda line: (-line.bytes, line.name))


def _line(name: str, amounts: Iterable[Amount]) -> Line:
    total = sum(amounts, Amount())
    return Line(name=name, **vars(total), bytes_per_token=total.bytes_per_token)


def _ranks(counts: np.ndarray) -> list[tuple[int, int]]:
    ordered = np.sort(counts[counts > 0])[::-1]
    steps = sorted({round(2 ** (half / 2)) for half in range(64) if 2 ** (half / 2) <= len(ordered)} | {len(ordered)})
    return [(rank, int(ordered[rank - 1])) for rank in steps if rank]


def _length(tokenizer: Tokenizer, token: Token) -> int:
    return 0 if token.id in tokenizer.spelt else len(tokenizer.piece_bytes()[token.id].decode("utf-8", "replace"))


def _shown(tokenizer: Tokenizer, index: int) -> str:
    """A token's text with blanks and line feeds made visible; a byte of a character by its number."""
    raw = tokenizer.piece_bytes()[index]
    if index in tokenizer.spelt:
        return "".join(f"<{byte:02X}>" for byte in raw)
    text = raw.decode("utf-8", "replace").replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥")
    return wording.visible(text)


def short(count: int) -> str:
    """Three digits and a unit: `9.83 M`."""
    value, unit = float(count), ""
    for larger in (" k", " M", " G"):
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    return f"{value:.3g}{unit}"


def picture_rows(lines: Sequence[Line]) -> list[tuple[str, float]]:
    """A bar for each language."""
    return [(line.name, line.bytes_per_token) for line in lines]


def sweep_rows(lines: Sequence[SweepLine]) -> list[tuple[str, float]]:
    """A bar for each vocabulary that could be learnt."""
    return [(line.name, line.bytes_per_token["all"]) for line in lines if line.bytes_per_token]
