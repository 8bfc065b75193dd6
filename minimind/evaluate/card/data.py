"""What the card says of the data: what became of every row, what each source gives, and how a chat is learnt."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from minimind.artifact import Artifact
from minimind.data.dropped import DROPPED_FILE
from minimind.errors import ArtifactError, MissingError
from minimind.evaluate.card.card import Dropped, Funnel, MaskView, Mixture, Piece, Share
from minimind.tokens.microscope import Slide, view_document
from minimind.tokens.token_set import INFO_FILE, SourceTokens, TokensInfo

IMBALANCE = 0.9
"""Share of the trained tokens of one source among several above which the others hardly count: a tenth of the labels
moves a model little, and whoever named several sources did not mean one."""
MASK_TOKENS = 240
"""Tokens of the chat that is shown: half a screen."""
MASK_SEARCH = 1000
"""Chats among which one of that length is looked for."""


class _DroppedRow(msgspec.Struct):
    rule: str
    reason: str


def funnels_of(artifacts: Sequence[Artifact]) -> list[Funnel]:
    """One per corpus; rows that its token set left out for their length are counted too."""
    tokens = {a.manifest.parents.get("corpus"): a for a in artifacts if a.kind == "tokens"}
    return [_funnel(shard, tokens.get(shard.fingerprint)) for shard in artifacts if shard.kind == "shard"]


def mixtures_of(artifacts: Sequence[Artifact]) -> list[Mixture]:
    """One per token set: what each source gives to the train split."""
    found = []
    for artifact in artifacts:
        if artifact.kind == "tokens":
            info = TokensInfo.read_json(artifact.dir / "train" / INFO_FILE, remedy="run the stage tokens again")
            if info.sources and info.trained_tokens:
                found.append(Mixture(kind=info.rows, sources=_shares(info.sources)))
    return found


def mixture_findings(mixtures: Sequence[Mixture]) -> Iterator[str]:
    """Kinds of rows of which one source gives nearly all."""
    found = [
        f"{mixture.sources[0].share:.1%} of {mixture.kind} rows are of {mixture.sources[0].source}"
        for mixture in mixtures
        if len(mixture.sources) > 1 and mixture.sources[0].share > IMBALANCE
    ]
    if found:
        yield (
            f"Imbalance: of the trained tokens {' and '.join(found)}, so other sources hardly count. Give the small "
            "ones a larger `weight` in the data spec, or more rows."
        )


def mask_of(token_set: Artifact) -> MaskView | None:
    """A held-out chat that is neither very short nor long, or one of the training; None where there is no chat."""
    for split, about in (("val", "a held-out chat"), ("train", "a chat of the training")):
        try:
            slide = Slide.of(token_set, split)
        except MissingError:  # its tokenizer was removed from the store
            return None
        if slide.tokens.num_documents:
            number = _readable(np.diff(slide.tokens.offsets[: MASK_SEARCH + 1]))
            view = view_document(slide, number, facts={})
            segment = view.rows[0].segments[0]
            of = f", {segment.source}" if segment.source else ""
            shown = segment.tokens[:MASK_TOKENS]
            cut = f", its first {len(shown)} of {len(segment.tokens)} tokens" if shown != segment.tokens else ""
            pieces = [Piece(text=token.text, trained=token.trained, special=token.special) for token in shown]
            return MaskView(title=f"{about}: {view.title}{of}{cut}", pieces=pieces)
    return None


def _readable(lengths: np.ndarray) -> int:
    """The first document of a third of the room to all of it, else the one nearest to that."""
    least = MASK_TOKENS // 3
    away = np.maximum(least - lengths, 0) + np.maximum(lengths - MASK_TOKENS, 0)
    return int(np.argmin(away))


def _shares(sources: Mapping[str, SourceTokens]) -> list[Share]:
    total = sum(one.trained_tokens for one in sources.values())
    shares = [
        Share(
            source=name,
            rows=one.kept_rows,
            bytes=one.kept_bytes,
            tokens=one.tokens,
            trained_tokens=one.trained_tokens,
            share=one.trained_tokens / max(total, 1),
        )
        for name, one in sources.items()
    ]
    return sorted(shares, key=lambda share: (-share.trained_tokens, share.source))


def _funnel(shard: Artifact, tokens: Artifact | None) -> Funnel:
    """Counted from the rows that were dropped, which the artifacts carry with them whole."""
    figures, counts = shard.summary().figures, _count_dropped(shard.dir / "dropped" / DROPPED_FILE)
    kept = {side: int(figures.get(f"{side}_rows") or 0) for side in ("train", "val")}
    rows_in = sum(kept.values()) + counts.total()
    if tokens is not None:
        counts += _count_dropped(tokens.dir / "dropped" / DROPPED_FILE)
        kept = {side: kept[side] - int(tokens.summary().figures.get(f"{side}_dropped_rows") or 0) for side in kept}
    return Funnel(
        kind=str(shard.manifest.parts.config.get("rows", "rows")),
        rows_in=rows_in,
        train_rows=kept["train"],
        validation_rows=kept["val"],
        dropped=[Dropped(rule=rule, reason=reason, rows=rows) for (rule, reason), rows in counts.most_common()],
    )


def _count_dropped(path: Path) -> Counter[tuple[str, str]]:
    counts: Counter[tuple[str, str]] = Counter()
    if not path.exists():
        return counts
    decoder = msgspec.json.Decoder(_DroppedRow)
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                row = decoder.decode(line)
            except msgspec.DecodeError as error:
                raise ArtifactError(
                    f"{path}:{number}: is no dropped row ({error}); run the data stages again"
                ) from None
            counts[row.rule, row.reason] += 1
    return counts
