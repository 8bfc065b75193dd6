"""The ledger of a model: every row, byte and token from the sources to the labels of its trainings, to the unit.

    ingest    in = kept + unusable                     (rows and bytes of the files)
    clean     kept by ingest = kept + dropped          (rows, and bytes of the texts)
    shard     kept by clean = train + val, a source's weight repeating rows or leaving some out
    tokens    train = rows with documents + too long; documents → tokens → labels; the same for val
    training  tokens and labels of its plan = those of the set; of all its steps = those it says it took

Each line is checked for every source against what is counted again in the files (`token_ledger_counts`): rows and
bytes in the Arrow files, lines of the drop logs, sizes and sums of tokens.bin and mask.bin. The ledgers and summaries
of the stages are the other side. Not here: how it is printed (`minimind.cli.inspect`).
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from minimind.artifact import Artifact
from minimind.data.documents import CONTENT
from minimind.data.dropped import DROPPED_FILE
from minimind.data.ledger import Ledger
from minimind.data.reading.tally import CHECK
from minimind.data.shards import ROWS_DIR
from minimind.errors import MissingError
from minimind.lineage import ancestors, parent
from minimind.tokens.token_ledger_books import Account, Books, TokenLedger, TrainingAccount
from minimind.tokens.token_ledger_counts import (
    Counts,
    Rows,
    SetCounts,
    count_logged,
    count_rows,
    count_tokens,
    count_training,
)
from minimind.tokens.token_set import TokenSet
from minimind.tokens.trainings import SPLITS, TRAININGS, Training


def balance(artifact: Artifact, trainings: Sequence[Training]) -> TokenLedger:
    """Count everything again that `artifact` was made of, and compare. Raises MissingError without any corpus."""
    known = ancestors(artifact)
    books = Books()
    books.uncounted = [
        f"{one.label} {one.fingerprint}: what it read as `{name}` ({fingerprint}) is not in the store"
        for one in known.values()
        for name, fingerprint in one.manifest.parents.items()
        if fingerprint not in known
    ]
    corpora = [a for a in known.values() if a.kind == "shard"]
    if not corpora:
        raise MissingError(f"{artifact.dir}: no corpus of its lineage is in the store; there is nothing to count")
    for corpus in sorted(corpora, key=lambda a: list(CONTENT).index(a.manifest.parts.config["rows"])):
        _Chain(corpus, books).follow([a for a in known.values() if a.kind == "tokens"])
    own = sorted((t for t in trainings if t.fingerprint in known), key=lambda t: TRAININGS.index(t.label))
    accounts = [_train(training, books) for training in own]
    for model in known.values():
        if model.kind in TRAININGS and model.fingerprint not in {training.fingerprint for training in own}:
            books.uncounted.append(f"{model.kind} {model.fingerprint}: what it was given is not in the store any more")
    return TokenLedger(
        of=f"{artifact.label} {artifact.fingerprint}",
        accounts=[Account(**values) for values in books.accounts.values()],
        trainings=accounts,
        checks=books.checks,
        imbalances=books.imbalances,
        uncounted=books.uncounted,
    )


class _Chain:
    """The way of one kind of rows, from its sources to its token sets."""

    def __init__(self, corpus: Artifact, books: Books) -> None:
        self._corpus, self._books = corpus, books
        self._kind = corpus.manifest.parts.config["rows"]

    def follow(self, sets: Iterable[Artifact]) -> None:
        """Check every stage there is, in the order of the path."""
        cleaned = parent(self._corpus, "rows")
        ingested = cleaned and parent(cleaned, "rows")
        if cleaned is None or not (cleaned.dir / "ledger.json").exists():
            self._books.uncounted.append(f"{self._corpus.label}: no ledger of cleaning to compare with")
            cleaned = None
        if cleaned and ingested:
            self._read(ingested)
        rows_clean = self._cleaned(cleaned, ingested) if cleaned else None
        splits = self._sharded(rows_clean)
        for artifact in sets:
            if artifact.manifest.parents.get("corpus") == self._corpus.fingerprint:
                self._tokenized(artifact, splits)

    def _read(self, ingested: Artifact) -> None:
        ledger, books, where = Ledger.read(ingested.dir), self._books, f"ingest {self._kind}"
        for unit in ("rows", "bytes"):
            kept, dropped = getattr(ledger, f"{unit}_kept"), ledger.dropped_by_source(unit)
            books.equal(where, f"{unit} in", getattr(ledger, f"{unit}_in"), "kept + unusable", kept + dropped)
        logged = _by_source(count_logged(ingested.dir / DROPPED_FILE))
        books.equal(where, "unusable rows", ledger.dropped_by_source(), "lines of its drop log", logged)
        found = count_rows(ingested.dir / ROWS_DIR, self._kind)
        books.equal(where, "rows kept", ledger.rows_kept, "rows in its files", found.counts())
        books.equal(where, "bytes of the rows kept", ledger.bytes_out, "bytes in its files", found.bytes())
        for source, rows in ledger.rows_in.items():
            reasons = {reason: n for (name, _, reason), n in ledger.rows_dropped.items() if name == source}
            bytes_in = ledger.bytes_in[source]
            books.account(self._kind, source).update(rows_in=rows, bytes_in=bytes_in, unusable=reasons)

    def _cleaned(self, cleaned: Artifact, ingested: Artifact | None) -> Rows:
        ledger, books, where = Ledger.read(cleaned.dir), self._books, f"clean {self._kind}"
        if ingested:
            read = Ledger.read(ingested.dir)
            books.equal(where, "rows in", ledger.rows_in, "rows that ingest kept", read.rows_kept)
            books.equal(where, "bytes in", ledger.bytes_in, "bytes of the rows that ingest kept", read.bytes_out)
        for unit in ("rows", "bytes"):
            kept, dropped = getattr(ledger, f"{unit}_kept"), ledger.dropped_by_source(unit)
            books.equal(where, f"{unit} in", getattr(ledger, f"{unit}_in"), "kept + dropped", kept + dropped)
        log = count_logged(cleaned.dir / DROPPED_FILE)
        logged = _by_source({key: count for key, count in log.items() if key[2] != CHECK})
        books.equal(where, "rows dropped", ledger.dropped_by_source(), "lines of its drop log", logged)
        weights = self._corpus.manifest.parts.config.get("weights") or {}
        found = count_rows(cleaned.dir / ROWS_DIR, self._kind, keys=bool(weights))
        books.equal(where, "rows kept", ledger.rows_kept, "rows in its files", found.counts())
        books.equal(where, "bytes kept", ledger.bytes_out, "bytes in its files", found.bytes())
        for source, rows in ledger.rows_kept.items():
            why = {f"{rule}: {reason}": n for (name, rule, reason), n in ledger.rows_dropped.items() if name == source}
            books.account(self._kind, source).update(rows_clean=rows, cleaned=why)
        for source in set(ledger.rows_in) - set(ledger.rows_kept):
            why = {f"{rule}: {reason}": n for (name, rule, reason), n in ledger.rows_dropped.items() if name == source}
            books.account(self._kind, source).update(rows_clean=0, cleaned=why)
        return found

    def _sharded(self, rows_clean: Rows | None) -> dict[str, Rows]:
        books, where, corpus = self._books, f"shard {self._kind}", self._corpus
        weights = corpus.manifest.parts.config.get("weights") or {}
        splits = {split: count_rows(corpus.dir / split, self._kind, keys=bool(weights)) for split in SPLITS}
        figures = corpus.summary().figures
        for split, rows in splits.items():
            counted = {"rows": len(rows.source_R), "bytes": int(rows.bytes_R.sum())}
            for unit, count in counted.items():
                told = figures.get(f"{split}_{unit}")
                books.same(where, f"{split} {unit} of its summary", told, "in its files", count)
            for source, count in rows.counts().items():
                books.account(self._kind, source).setdefault("rows", {})[split] = count
        if rows_clean is not None:
            once, repeated, left_out = _unweighted(rows_clean, splits, weights, books, where)
            sides = once.counts() + splits["val"].counts()
            books.equal(where, "rows of clean", rows_clean.counts(), "train + val + left out", sides + left_out)
            for source in repeated | left_out:
                books.account(self._kind, source).update(repeated=repeated[source], left_out=left_out[source])
            if not weights:
                sizes = splits["train"].bytes() + splits["val"].bytes()
                books.equal(where, "bytes of clean", rows_clean.bytes(), "train + val", sizes)
        return splits

    def _tokenized(self, artifact: Artifact, splits: Mapping[str, Rows]) -> None:
        log = count_logged(artifact.dir / "dropped" / DROPPED_FILE)
        figures = artifact.summary().figures
        for split, rows in splits.items():
            where = f"{artifact.label} {split}"
            tokens = TokenSet.open(artifact.dir / split)
            counted = count_tokens(tokens, rows)
            dropped = _by_source({key: count for key, count in log.items() if key[1] == split})
            with_documents = counted.rows + dropped
            self._books.equal(where, "rows of the corpus", rows.counts(), "with documents + too long", with_documents)
            totals = {"documents": tokens.num_documents, "tokens": tokens.num_tokens}
            totals["trained_tokens"] = tokens.info.trained_tokens
            sums = {"documents": counted.documents, "tokens": counted.tokens, "trained_tokens": counted.trained}
            for name, by_source in sums.items():
                words = name.replace("_", " ")
                self._books.same(where, f"{words} of tokens.json", totals[name], "in its files", by_source.total())
                told = figures.get(f"{split}_{name}")
                self._books.same(where, f"{words} of its summary", told, "in its files", by_source.total())
            own_bytes = int(np.asarray(tokens.bytes).sum())
            self._books.same(where, "bytes of tokens.json", tokens.info.bytes, "in bytes.idx", own_bytes)
            self._by_source(where, tokens, counted, dropped, rows)
            self._enter(split, counted, dropped)

    def _by_source(self, where: str, tokens: TokenSet, counted: SetCounts, dropped: Counts, rows: Rows) -> None:
        """What `tokens.json` says of every source, against the files."""
        told = tokens.info.sources
        if not told:
            return
        both = {
            "rows": rows.counts(),
            "bytes": rows.bytes(),
            "kept_rows": counted.rows,
            "dropped_rows": dropped,
            "documents": counted.documents,
            "tokens": counted.tokens,
            "trained_tokens": counted.trained,
        }
        for name, found in both.items():
            said = {source: getattr(account, name) for source, account in told.items()}
            self._books.equal(where, f"{name.replace('_', ' ')} of tokens.json", said, "counted", found)
        parts = {s: a.kept_bytes + a.dropped_bytes + a.cut_bytes for s, a in told.items()}
        whole = {source: account.bytes for source, account in told.items()}
        self._books.equal(where, "bytes of the rows", whole, "kept + dropped + cut", parts)

    def _enter(self, split: str, counted: SetCounts, dropped: Counts) -> None:
        values = {
            "too_long": dropped,
            "documents": counted.documents,
            "tokens": counted.tokens,
            "trained_tokens": counted.trained,
        }
        for name, by_source in values.items():
            for source, count in by_source.items():
                self._books.account(self._kind, source).setdefault(name, {})[split] = count


def _unweighted(
    clean: Rows, splits: Mapping[str, Rows], weights: Mapping[str, float], books: Books, where: str
) -> tuple[Rows, Counts, Counts]:
    """The training rows without their repetitions, how many those are, and how many rows are in neither split."""
    train, val = splits["train"], splits["val"]
    if not weights:
        return train, Counter(), Counter()
    _, first, times = np.unique(train.keys_R, return_index=True, return_counts=True)
    once = train.only(first)
    missing = clean.only(~np.isin(clean.keys_R, np.concatenate([train.keys_R, val.keys_R])))
    for source, weight in weights.items():
        own = [number for number, name in enumerate(train.names) if name == source]
        seen = times[np.isin(once.source_R, own)]
        most, least = int(seen.max(initial=0)), int(seen.min(initial=max(1, int(weight))))
        allowed = int(weight) + (weight != int(weight))
        books.same(where, f"rows of {source} above its weight {weight}", max(0, most - allowed), "allowed", 0)
        books.same(where, f"rows of {source} below its weight {weight}", max(0, int(weight) - least), "allowed", 0)
    books.equal(where, "rows left out of sources with a weight", _of(missing, weights), "left out", missing.counts())
    return once, train.counts() - once.counts(), missing.counts()


def _of(rows: Rows, weights: Mapping[str, float]) -> Counts:
    """Rows of the sources that a weight below 1 may leave out."""
    return Counter({source: count for source, count in rows.counts().items() if weights.get(source, 1) < 1})


def _train(training: Training, books: Books) -> TrainingAccount:
    counted, figures = count_training(training), training.figures
    info = TokenSet.open(training.tokens.dir / "train").info
    where = training.label
    if counted.is_plain:
        books.same(where, "tokens of the set", info.tokens, "of its packing plan", counted.epoch_tokens)
        books.same(where, "trained tokens of the set", info.trained_tokens, "labels of an epoch", counted.epoch_labels)
    told = {name: _whole(figures.get(name)) for name in ("tokens", "trained_tokens", "trained_pairs")}
    if training.changed_code:
        books.uncounted.append(f"{where}: its steps; {', '.join(training.changed_code)} changed since it was trained")
    else:
        pairs = training.steps * training.batch_items
        books.same(where, "tokens it says it took", told["tokens"], "of its steps", counted.tokens)
        books.same(
            where, "trained tokens it says it took", told["trained_tokens"], "labels of its steps", counted.labels
        )
        books.same(where, "pairs it says it took", told["trained_pairs"], "of its steps", pairs)
    return TrainingAccount(
        training=training.label,
        fingerprint=training.fingerprint,
        token_set=training.tokens.label,
        steps=training.steps,
        epochs=round(training.steps * training.batch_items / max(1, counted.items), 4),
        tokens=told["tokens"] if training.changed_code else counted.tokens,
        trained_tokens=told["trained_tokens"] if training.changed_code else counted.labels,
    )


def _whole(value: Any) -> int | None:
    return int(value) if isinstance(value, int | float) else None


def _by_source(logged: Mapping[tuple[str, str, str], int]) -> Counts:
    counts: Counts = Counter()
    for (source, _, _), count in logged.items():
        counts[source.partition("/")[0]] += count
    return counts
