"""The microscope: the exact tokens a model gets, with what is learnt of them and where each document comes from.

What is shown is the batch itself, as the training takes it, not a second rendering of the rows. A token is *trained*
where the label at the position before it is that token. At the end of a piece the label may be a token that stands
elsewhere (the END_OF_TEXT after a pretraining document, the next piece of a long one): it is shown as `then`. So the
trained tokens of a view are exactly the labels of its rows.

Not here: how a view looks in a terminal and on a page (`microscope_text`, `microscope_page`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from minimind.artifact import Artifact
from minimind.config import Config
from minimind.data.wording import visible
from minimind.errors import ConfigError, MissingError
from minimind.lineage import parent
from minimind.tokens.batches import PairBatches, RowBatches
from minimind.tokens.layout import IGNORE, Batch, PiecesOfStep
from minimind.tokens.token_set import TokenSet
from minimind.tokens.tokenizer import Tokenizer
from minimind.tokens.trace_corpus import CorpusSplit, Origin
from minimind.tokens.trace_pieces import Source


class Token(Config):
    """A token as it is shown."""

    id: int
    text: str
    """Its text, with what cannot be seen spelled out; single bytes as `‹E4›`."""
    special: bool = False
    trained: bool = False
    """It is the label of the position before it."""


class Segment(Config):
    """A document, or a piece of one, in a row."""

    document: int
    """Number in the token set; −1 for tokens that augmentation put in."""
    token_set: int = 0
    """Number of the token set in a mixture."""
    start: int
    """Tokens of the document before the piece."""
    column: int
    """Positions of the row before the piece; within it positions are counted from 0."""
    source: str = ""
    """`source:line` of the row it was made from, where the corpus is in the store."""
    row_id: str = ""
    tokens: list[Token]
    then: Token | None = None
    """The label of the last position, where it has one."""


class RowView(Config):
    """A row of a batch."""

    row: int
    """Of the batch, from 0."""
    item: int
    """Number of the row in the packing plan, of the pair, or of the document."""
    of: str = "plan's row"
    """What `item` counts."""
    side: str = ""
    """`chosen` or `rejected` of a pair."""
    segments: list[Segment]
    padding: int

    @property
    def num_tokens(self) -> int:
        return sum(len(segment.tokens) for segment in self.segments)

    @property
    def num_trained(self) -> int:
        """Labels of the row."""
        inside = sum(token.trained for segment in self.segments for token in segment.tokens)
        return inside + sum(segment.then is not None for segment in self.segments)


class View(Config):
    """Some rows, and what they are of."""

    title: str
    facts: dict[str, str]
    rows: list[RowView]
    rows_left_out: int = 0
    """Rows of the same batch that are not shown."""


@dataclass(frozen=True)
class Slide:
    """A split of a token set that is looked at: its ids, its tokenizer, and where its rows come from."""

    tokens: TokenSet
    tokenizer: Tokenizer
    corpus: CorpusSplit | None

    @classmethod
    def of(cls, artifact: Artifact, split: str) -> "Slide":
        """Raises MissingError where the artifact's tokenizer is not in the store."""
        tokenizer, corpus = parent(artifact, "tokenizer"), parent(artifact, "corpus")
        if tokenizer is None:
            raise MissingError(f"{artifact.dir}: its tokenizer is not in the store; run the stage tokenizer again")
        try:
            rows = CorpusSplit(corpus.dir / split) if corpus else None
        except MissingError:
            rows = None
        return cls(TokenSet.open(artifact.dir / split), Tokenizer.load(tokenizer.dir), rows)

    def origins(self, documents: Sequence[int]) -> dict[int, Origin]:
        """Document → the row of the corpus it was made from."""
        if self.corpus is None or not documents:
            return {}
        rows = {document: int(self.tokens.rows[document]) for document in documents}
        found = self.corpus.origins(rows.values())
        return {document: found[row] for document, row in rows.items()}


def view_step(
    slides: Sequence[Slide], batches: Source, step: int, *, max_rows: int, facts: Mapping[str, str] | None = None
) -> View:
    """The batch of a step, counted from 1, or its first rows. Of pairs chosen and rejected stand together.

    `slides` are the token sets in the order of a mixture; without one there is one.
    """
    if step < 1:
        raise ConfigError(f"--step {step}: steps are counted from 1, as in MLflow")
    batch, pieces = batches.batch(step - 1), batches.pieces(step - 1)
    return _view(slides, batch, pieces, max_rows=max_rows, title=f"step {step}", facts=facts or {})


def view_item(slide: Slide, batches: Source, item: int, *, facts: Mapping[str, str]) -> View:
    """A row of the packing plan, or a pair."""
    if not isinstance(batches, RowBatches | PairBatches):
        raise ConfigError("--row: this training mixes or augments rows as it goes; name a --step, or the token set")
    is_pair = isinstance(batches, PairBatches)
    count = batches.num_pairs if isinstance(batches, PairBatches) else batches.num_rows
    what = "pair" if is_pair else "row"
    if not 0 <= item < count:
        raise ConfigError(f"--row {item}: the split has {what}s 0 to {count - 1}")
    wanted = np.array([item])
    batch, pieces = batches.gather(wanted), batches.pieces_of(wanted)
    return _view([slide], batch, pieces, max_rows=2, title=f"{what} {item} of {count:,}", facts=facts)


def view_document(slide: Slide, number: int, *, facts: Mapping[str, str]) -> View:
    """A document by itself, whole."""
    tokens = slide.tokens
    if not 0 <= number < tokens.num_documents:
        raise ConfigError(f"--document {number}: the split has documents 0 to {tokens.num_documents - 1}")
    start, stop = int(tokens.offsets[number]), int(tokens.offsets[number + 1])
    ids_T = np.asarray(tokens.tokens[start : stop + 1]).astype(np.int64)
    labels_T = ids_T[1:]
    if tokens.trained is not None:
        learnt_T = np.asarray(tokens.trained[start + 1 : stop + 1]).astype(bool)
        learnt_T[-1:] = False  # it is that of the next document
        labels_T = np.where(learnt_T, labels_T, IGNORE)
    one, nothing, length = np.array([number]), np.zeros(1, np.int64), np.array([stop - start])
    batch = Batch(
        ids_T[None, :-1], labels_T[None], np.zeros((1, stop - start), np.int32), np.arange(stop - start)[None], one
    )
    pieces = PiecesOfStep(nothing, nothing, one, nothing, length, nothing)
    title = f"document {number} of {tokens.num_documents:,}"
    return _view([slide], batch, pieces, max_rows=1, title=title, facts=facts, of="document")


def _view(
    slides: Sequence[Slide],
    batch: Batch,
    pieces: PiecesOfStep,
    *,
    max_rows: int,
    title: str,
    facts: Mapping[str, str],
    of: str = "plan's row",
) -> View:
    sides = sides_of(slides, batch)
    order = np.arange(len(batch)).reshape(len(sides), -1).T.flatten().tolist()  # a pair's sides below each other
    shown = order[:max_rows]
    chosen = np.flatnonzero(np.isin(pieces.rows, shown))
    origins = _origins(slides, pieces, chosen)
    rows = []
    for row in shown:
        own = chosen[pieces.rows[chosen] == row]
        tokens, thens = _tokens(slides[0].tokenizer, batch, row)
        segments = [_segment(pieces, piece, tokens, thens, origins.get(piece)) for piece in own.tolist()]
        side = sides[row * len(sides) // len(batch)]
        padding = int((batch.documents_BT[row] < 0).sum())
        what = {"": of, "chosen": "pair", "rejected": "pair"}.get(side, "plan's piece")
        rows.append(
            RowView(row=row, item=int(batch.items_B[row]), of=what, side=side, segments=segments, padding=padding)
        )
    figures = {
        "rows": f"{len(batch):,} of {batch.tokens_BT.shape[1]:,} positions",
        "tokens": f"{int((batch.documents_BT >= 0).sum()):,}",
        "trained": f"{int((batch.labels_BT != IGNORE).sum()):,}",
        "padding": f"{int((batch.documents_BT < 0).sum()):,}",
    }
    return View(title=title, facts={**facts, **figures}, rows=rows, rows_left_out=len(order) - len(shown))


def sides_of(slides: Sequence[Slide], batch: Batch) -> tuple[str, ...]:
    """What the equal parts of a batch are, in their order: one without a name where its rows are no pairs."""
    if slides[0].tokens.kind != "preference" or len(batch) == 1:
        return ("",)
    return ("chosen", "rejected", *(slide.tokens.kind for slide in slides[1:]))


def _origins(slides: Sequence[Slide], pieces: PiecesOfStep, chosen: np.ndarray) -> dict[int, Origin]:
    """Piece → the row of the corpus it was made from."""
    found: dict[int, Origin] = {}
    for number, slide in enumerate(slides):
        own = chosen[(pieces.token_sets[chosen] == number) & (pieces.documents[chosen] >= 0)]
        origins = slide.origins(pieces.documents[own].tolist())
        found |= {piece: origins[d] for piece in own.tolist() if (d := int(pieces.documents[piece])) in origins}
    return found


def _tokens(tokenizer: Tokenizer, batch: Batch, row: int) -> tuple[list[Token], list[Token | None]]:
    """The tokens of a row, and for each the label of its position where that is not the token behind it."""
    ids, labels = batch.tokens_BT[row], batch.labels_BT[row]
    documents, positions = batch.documents_BT[row], batch.positions_BT[row]
    goes_on = (documents[1:] == documents[:-1]) & (positions[1:] == positions[:-1] + 1)
    is_next = goes_on & (labels[:-1] == ids[1:])
    trained = np.concatenate([[False], is_next & (documents[1:] >= 0)])
    elsewhere = (labels != IGNORE) & ~np.concatenate([is_next, [False]])
    shown = zip(_texts(tokenizer, ids.tolist()), ids.tolist(), trained.tolist(), strict=True)
    tokens = [Token(id=i, text=text, special=special, trained=learnt) for (text, special), i, learnt in shown]
    told = zip(labels.tolist(), elsewhere.tolist(), strict=True)
    return tokens, [_then(tokenizer, label) if is_shown else None for label, is_shown in told]


def _then(tokenizer: Tokenizer, number: int) -> Token:
    ((text, special),) = _texts(tokenizer, [number])
    return Token(id=number, text=text, special=special, trained=True)


def _segment(
    pieces: PiecesOfStep, piece: int, tokens: list[Token], thens: list[Token | None], origin: Origin | None
) -> Segment:
    """A piece, out of the tokens of its row."""
    column, length = int(pieces.columns[piece]), int(pieces.lengths[piece])
    stop = column + length
    return Segment(
        document=int(pieces.documents[piece]),
        token_set=int(pieces.token_sets[piece]),
        start=int(pieces.starts[piece]),
        column=column,
        source=str(origin) if origin else "",
        row_id=origin.id if origin else "",
        tokens=tokens[column:stop],
        then=thens[stop - 1] if length else None,
    )


def _texts(tokenizer: Tokenizer, ids: Sequence[int]) -> Iterator[tuple[str, bool]]:
    """The text of each token for people, and whether it is a special one.

    Of a character that is spelled in several tokens the bytes are shown, and behind its last one the character.
    """
    waiting = b""
    for number in ids:
        data, name = _piece(tokenizer, number)
        text = _decoded(data)
        if text is not None:
            waiting = b""
            yield (visible(text) if data else name), not data
            continue
        waiting = (waiting + data)[-4:]
        whole = next((text for start in range(len(waiting)) if (text := _decoded(waiting[start:]))), "")
        waiting = b"" if whole else waiting
        yield "".join(f"‹{byte:02X}›" for byte in data) + visible(whole), False


@lru_cache(maxsize=1 << 16)
def _piece(tokenizer: Tokenizer, number: int) -> tuple[bytes, str]:
    """The bytes of a token, and what a special one is called."""
    data = tokenizer.decode_bytes([number])
    return data, "" if data else tokenizer.decode([number])


def _decoded(data: bytes) -> str | None:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return None
