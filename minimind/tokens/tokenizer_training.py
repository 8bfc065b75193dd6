"""The stage that makes a tokenizer: learns one from a corpus, or takes one that exists, and reports on it.

It writes `tokenizer.model`, its Hugging Face twin and the report. Where `[tokenizer] file` names a tokenizer.json
there is no tokenizer.model. The sample it learns from is drawn by weight: the corpus repeats the rows of a source as
its weight says, and every copy is drawn on its own. Every row of the corpus is encoded and decoded for the report,
which costs about what making its tokens costs, on all cores.

Not here: the tokenizer (`tokenizer`), what is learnt (`vocabulary`, `coverage`), what is taken (`foreign_tokenizer`).
"""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from minimind.artifact import Inputs, Summary
from minimind.config import WHERE, Config
from minimind.data.pieces import enough_workers
from minimind.data.shards import SIDES, count_rows
from minimind.errors import ConfigError
from minimind.events import EVENTS_FILE, EventWriter
from minimind.stage import Stage
from minimind.tokens.coverage import SWEEP_BYTES, choose_coverage
from minimind.tokens.foreign_tokenizer import adopt, digest, open_foreign
from minimind.tokens.hf_tokenizer import write_hf_tokenizer
from minimind.tokens.tokenizer import MODEL_FILE, Tokenizer
from minimind.tokens.tokenizer_report import CoverageTrial, TokenizerReport, held_out_of, make_report, write_report
from minimind.tokens.tokenizer_tally import Tally, tally_corpus, tally_jobs
from minimind.tokens.vocabulary import FIRST_PIECE, sample_texts, train_pieces

TRAINED = "trained"
_PROVEN_BYTES = 4 << 20
"""Text on which the twin of somebody else's tokenizer.model must give equal ids."""
_MANY_SPELT = 0.1


class TokenizerConfig(Config):
    """What the tokenizer learns, and from how much; or the file that is used instead."""

    file: Annotated[str | None, WHERE] = None
    """A tokenizer.model or tokenizer.json to use, or a directory with either; what counts is its bytes."""
    vocab_size: int = Field(default=6400, ge=1, le=1 << 20)
    """All of it: 16 special tokens, `<unk>`, 256 bytes, and the learnt pieces. Of a file, as many as it has."""
    character_coverage: float | None = Field(default=None, ge=0.98, le=1)
    """Share of all characters whose characters get a piece of their own; by default chosen from the corpus."""
    sample_bytes: int = Field(default=40 << 20, ge=1 << 10)
    """Text to learn from; training takes 15–18 times as much memory."""
    seed: int = 0
    """Chooses the sample where the corpus is larger."""
    workers: Annotated[int, WHERE] = 0
    """Processes that count the corpus; 0 takes one for each core."""


def train_tokenizer(config: TokenizerConfig, inputs: Inputs, out_dir: Path) -> Summary:
    """Learn the pieces from the training rows of a corpus, or take a file's; write its files and the report."""
    corpus = inputs["corpus"].dir
    rows = {split: count_rows(corpus / split) for split in SIDES if (corpus / split).is_dir()}
    total = 2 * max(1, sum(rows.values()))
    with EventWriter(out_dir / EVENTS_FILE) as events:
        if config.file:
            tokenizer, coverage, trials = _taken(config, corpus, out_dir), None, []
        else:
            tokenizer, coverage, trials = _learnt(config, corpus, out_dir)
        events.progress(total // 2, total, "rows")
        tally = Tally.of(tokenizer.vocab_size)
        jobs = [job for job in tally_jobs(out_dir, corpus) if rows.get(job.split)]
        workers = enough_workers(config.workers, sum(Path(job.path).stat().st_size for job in jobs))
        for tally in tally_corpus(jobs, tokenizer.vocab_size, workers=workers):
            done = sum(amount.documents for amount in tally.amounts.values())
            events.progress(total // 2 + done, total, "rows")
    origin = Path(config.file).name if config.file else TRAINED
    report = make_report(tokenizer, tally, origin=origin, coverage=coverage, trials=trials)
    write_report(report, out_dir)
    longest = " | ".join(token.text for token in report.longest[:20])
    return Summary(figures=_figures(report), samples=[f"longest pieces: {longest}"], warnings=_warnings(report))


def tokenizer_sources(config: TokenizerConfig) -> dict[str, str]:
    """The file that is used instead of training, by its bytes."""
    return digest(config.file) if config.file else {}


TOKENIZER = Stage("tokenizer", train_tokenizer, inputs=("corpus",), sources=tokenizer_sources, format_version=2)


def _learnt(config: TokenizerConfig, corpus: Path, out_dir: Path) -> tuple[Tokenizer, float, list[CoverageTrial]]:
    """A tokenizer trained on the corpus, the coverage it was trained with, and those that were tried."""
    if config.vocab_size <= FIRST_PIECE:
        raise ConfigError(
            f"tokenizer.vocab_size = {config.vocab_size} leaves no room for learnt pieces; set it to "
            f"{FIRST_PIECE + 1} or more"
        )
    train = corpus / "train"
    coverage, trials = config.character_coverage, []
    if coverage is None:
        part = list(sample_texts(train, min(SWEEP_BYTES, config.sample_bytes), seed=config.seed))
        coverage, tried = choose_coverage(part, config.vocab_size)
        trials = [CoverageTrial(coverage=one.coverage, bytes_per_token=one.bytes_per_token) for one in tried]
    sample = sample_texts(train, config.sample_bytes, seed=config.seed)
    model = train_pieces(sample, vocab_size=config.vocab_size, character_coverage=coverage)
    (out_dir / MODEL_FILE).write_bytes(model)
    tokenizer = Tokenizer.of_model(model, out_dir)
    write_hf_tokenizer(tokenizer.pieces(), out_dir)
    return tokenizer, coverage, trials


def _taken(config: TokenizerConfig, corpus: Path, out_dir: Path) -> Tokenizer:
    """Somebody else's tokenizer, whose size must be the one that is asked for."""
    file = str(config.file)
    size = open_foreign(file).vocab_size
    if size != config.vocab_size:
        raise ConfigError(
            f"tokenizer.vocab_size = {config.vocab_size}, but tokenizer.file = {file} has {size} ids; "
            "leave tokenizer.vocab_size out, or set it to that"
        )
    return adopt(file, out_dir, sample=sample_texts(corpus / "train", _PROVEN_BYTES, seed=config.seed))


def _figures(report: TokenizerReport) -> dict[str, int | float | str | None]:
    """What people compare tokenizers by; of the training rows, and of the validation rows as `val_…`."""
    figures: dict[str, int | float | str | None] = {
        "vocab_size": report.vocab_size,
        "character_coverage": report.character_coverage and round(report.character_coverage, 6),
        "unused_tokens": report.unused_tokens,
        "rare_tokens": report.rare_tokens,
        "documents": report.documents,
        "round_trip_failures": report.round_trip_failures,
    }
    for split, prefix in (("train", ""), ("val", "val_")):
        if split in report.splits:
            total = report.splits[split].total
            figures[f"{prefix}bytes_per_token"] = total.bytes_per_token
            figures[f"{prefix}byte_fallback_share"] = round(total.spelt / max(total.tokens, 1), 6)
    for line in report.splits[held_out_of(report)].languages[:8]:
        figures[f"bytes_per_token_{line.name}"] = line.bytes_per_token
    return figures


def _warnings(report: TokenizerReport) -> list[str]:
    """What a reader of the figures should not overlook."""
    found = []
    if failures := report.round_trip_failures:
        found.append(
            f"{failures} of {report.documents} documents of the corpus do not come back unchanged from this tokenizer "
            f"({report.origin}): what it drops or changes, the model never learns"
        )
    total = report.splits["train"].total
    share = total.spelt / max(total.tokens, 1)
    if share > _MANY_SPELT:
        found.append(
            f"{share:.0%} of the tokens are single bytes; a larger tokenizer.vocab_size or "
            f"tokenizer.character_coverage would spell fewer characters out"
        )
    return found
