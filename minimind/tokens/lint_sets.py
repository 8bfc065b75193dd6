"""Rules on a token set: what stands in the files that a training reads, not what was meant to.

Ids and masks are looked at in stretches of whole documents, a few million ids at a time, with numpy. Rules on roles
need the tokenizer, since only it knows which ids are the header of an assistant's turn.

Axes: P positions of a stretch, D its documents. Not here: comparing splits (`lint_splits`), rows (`lint_rows`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from minimind.tokens.chat import PROMPT_HEADER
from minimind.tokens.lint_answers import LIMIT_SHARE, MIN_AT_LIMIT, MIN_SAME, SAME_SHARE
from minimind.tokens.lint_rules import Findings, Place
from minimind.tokens.lint_splits import NO_PROMPT, Splits, digest
from minimind.tokens.token_set import TokenSet
from minimind.tokens.tokenizer import Tokenizer
from minimind.tokens.vocabulary import IM_END

STRETCH_TOKENS = 4 << 20
EXCERPT_TOKENS = 24


@dataclass
class SetRules:
    """Looks at one split. `locate` gives the place of a document."""

    tokens: TokenSet
    split: str
    findings: Findings
    locate: Callable[[str, int], Place]
    tokenizer: Tokenizer | None
    splits: Splits
    _answers: list[tuple[int, int]] = field(default_factory=list)
    """Digest and document of every last answer."""

    def look(self) -> None:
        """Try every rule on every document."""
        for first, last in _stretches(self.tokens):
            stretch = _Stretch.of(self.tokens, first, last)
            self._ids(stretch)
            if stretch.trained is not None and self.tokens.kind != "prompt":
                self._masks(stretch)
            self._digests(stretch)
        if self.tokens.kind == "preference":
            self._pairs()
        self._lengths()
        self._same_answers()

    def _ids(self, stretch: "_Stretch") -> None:
        too_large = np.flatnonzero(stretch.ids >= self.tokens.info.vocab_size)
        self._tell("id_out_of_range", stretch, too_large, lambda p: f"id {stretch.ids[p]} at position {{at}}")
        end_of_text = self.tokens.info.end_of_text
        if end_of_text == self._im_end:  # of tokenizers that have one token for both
            return
        ends = np.flatnonzero(stretch.ids == end_of_text)
        if self.tokens.kind == "pretrain":
            ends = ends[~np.isin(ends, stretch.starts)]
        self._tell("end_of_text_inside", stretch, ends, lambda _: "at position {at}")

    def _masks(self, stretch: "_Stretch") -> None:
        assert stretch.trained is not None
        trained_D = stretch.sums(stretch.trained)
        self._tell("nothing_trained", stretch, stretch.starts[trained_D == 0], lambda _: "no position of {length}")
        im_end = self._im_end
        is_end = stretch.ids == im_end
        ends_D = stretch.sums(stretch.trained & is_end)
        endless = stretch.starts[(trained_D > 0) & (ends_D == 0)]
        self._tell("end_never_trained", stretch, endless, lambda _: "its answers end without one")
        before = np.concatenate([[False], stretch.trained[:-1]])
        empty = np.flatnonzero(stretch.trained & is_end & ~before)
        self._tell("empty_answer", stretch, empty, lambda _: "at position {at}")
        if self.tokenizer is not None:
            outside = np.flatnonzero(stretch.trained & ~self._in_answers(stretch, is_end))
            self._tell("mask_outside_answers", stretch, outside, lambda _: "position {at} is learnt")

    def _in_answers(self, stretch: "_Stretch", is_end_P: np.ndarray) -> np.ndarray:
        """Whether each position stands between the header of an assistant's turn and its end, which counts, too."""
        assert self.tokenizer is not None
        header = np.array(self.tokenizer.encode(PROMPT_HEADER))
        positions = np.arange(len(stretch.ids))
        begins = np.flatnonzero(stretch.ids == self.tokenizer.specials.im_start)
        is_answer = np.ones(len(begins), bool)
        for offset, wanted in enumerate(header.tolist(), 1):
            at = np.minimum(begins + offset, len(stretch.ids) - 1)
            is_answer &= stretch.ids[at] == wanted
        marks = np.full(len(stretch.ids), -1)
        marks[begins] = begins
        begin_P = np.maximum.accumulate(np.maximum(marks, stretch.start_P))
        begins_answer = np.zeros(len(stretch.ids), bool)
        begins_answer[begins[is_answer]] = True
        ends = np.full(len(stretch.ids), -1)
        ends[is_end_P] = positions[is_end_P]
        last_end_P = np.concatenate([[-1], np.maximum.accumulate(ends)[:-1]])  # before this position
        return begins_answer[begin_P] & (positions > begin_P + len(header)) & (last_end_P < begin_P)

    def _digests(self, stretch: "_Stretch") -> None:
        """Of every document and its prompt for the comparison of splits, and of its last answer."""
        for number, (start, stop) in enumerate(zip(stretch.starts, stretch.stops, strict=True), stretch.first):
            ids, prompt = stretch.ids[start:stop], NO_PROMPT
            if stretch.trained is not None and (learnt := np.flatnonzero(stretch.trained[start:stop])).size:
                gaps = np.flatnonzero(np.diff(learnt) > 1)
                begin = int(learnt[gaps[-1] + 1] if gaps.size else learnt[0])
                prompt = digest(ids[:begin].tobytes())
                self._answers.append((digest(ids[begin : int(learnt[-1]) + 1].tobytes()), number))
            self.splits.add(self.split, number, digest(ids.tobytes()), prompt)

    def _pairs(self) -> None:
        tokens = self.tokens
        assert tokens.trained is not None
        for chosen in range(0, tokens.num_documents - 1, 2):
            sides = [tokens.document(chosen), tokens.document(chosen + 1)]
            if np.array_equal(*sides):
                self._add("identical_pair", chosen, "the same ids")
                continue
            prompts = [ids[: self._first_trained(chosen + side)] for side, ids in enumerate(sides)]
            if not np.array_equal(*prompts):
                self._add("prompt_not_shared", chosen, f"{len(prompts[0])} and {len(prompts[1])} tokens of prompt")

    def _first_trained(self, document: int) -> int:
        assert self.tokens.trained is not None
        start, stop = self.tokens.offsets[document : document + 2]
        learnt = np.flatnonzero(self.tokens.trained[start:stop])
        return int(learnt[0]) if len(learnt) else int(stop - start)

    def _lengths(self) -> None:
        """Documents of the greatest length that end in the middle of a turn."""
        tokens, lengths = self.tokens, np.diff(self.tokens.offsets)
        if tokens.kind in ("pretrain", "prompt") or not len(lengths):
            return
        longest = int(lengths.max())
        full = np.flatnonzero(lengths == longest)
        last = np.asarray(tokens.offsets)[full + 1][:, None] - np.arange(1, min(3, longest + 1))
        cut = full[~(tokens.tokens[last] == self._im_end).any(axis=1)]
        if len(cut) >= max(MIN_AT_LIMIT, LIMIT_SHARE * len(lengths)):
            told = f"{len(cut):,} of {len(lengths):,} documents break off at exactly {longest} tokens, none is longer"
            self._add("length_limit", int(cut[0]), told)

    def _same_answers(self) -> None:
        if not self._answers:
            return
        digests, first, counts = np.unique(
            np.array([value for value, _ in self._answers], np.uint64), return_index=True, return_counts=True
        )
        most = int(counts.argmax())
        if counts[most] >= max(MIN_SAME, SAME_SHARE * len(self._answers)) and len(digests):
            told = f"the answer of {counts[most]:,} of {len(self._answers):,} documents, first here"
            self._add("same_answer", self._answers[int(first[most])][1], told)

    def _tell(self, rule: str, stretch: "_Stretch", positions: np.ndarray, words: Callable[[int], str]) -> None:
        """A finding for each document that has such positions."""
        documents, firsts = np.unique(stretch.document_P[positions], return_index=True)
        for number, first in zip(documents.tolist(), firsts.tolist(), strict=True):
            at = int(positions[first])
            begin, stop = int(stretch.starts[number]), int(stretch.stops[number])
            detail = words(at).format(at=at - begin, length=stop - begin)
            self._add(rule, stretch.first + number, detail, around=at - begin)

    def _add(self, rule: str, document: int, detail: str, *, around: int = 0) -> None:
        if not self.findings.room(rule):
            self.findings.add(rule, Place(file=""), "")
            return
        excerpt = ""
        if self.tokenizer is not None:
            start = max(0, around - EXCERPT_TOKENS)
            ids = self.tokens.document(document)[start : around + EXCERPT_TOKENS]
            excerpt = self.tokenizer.decode(ids[ids < self.tokenizer.vocab_size])
        self.findings.add(rule, self.locate(self.split, document), detail, excerpt)

    @property
    def _im_end(self) -> int:
        """Another project's tokenizer may have it elsewhere."""
        return IM_END if self.tokenizer is None else self.tokenizer.specials.im_end


@dataclass(frozen=True)
class _Stretch:
    """Some whole documents. `starts` and `stops` are positions in `ids`."""

    first: int
    ids: np.ndarray
    trained: np.ndarray | None
    starts: np.ndarray
    stops: np.ndarray
    document_P: np.ndarray
    """The document of each position, counted from 0 in the stretch."""
    start_P: np.ndarray
    """Where the document of each position begins."""

    @classmethod
    def of(cls, tokens: TokenSet, first: int, last: int) -> "_Stretch":
        begin, end = int(tokens.offsets[first]), int(tokens.offsets[last])
        edges = np.asarray(tokens.offsets[first : last + 1]) - begin
        lengths = np.diff(edges)
        return cls(
            first=first,
            ids=np.asarray(tokens.tokens[begin:end]),
            trained=None if tokens.trained is None else np.asarray(tokens.trained[begin:end]).astype(bool),
            starts=edges[:-1],
            stops=edges[1:],
            document_P=np.repeat(np.arange(last - first), lengths),
            start_P=np.repeat(edges[:-1], lengths),
        )

    def sums(self, values_P: np.ndarray) -> np.ndarray:
        """The sum of values over each document."""
        totals = np.concatenate([[0], np.cumsum(values_P, dtype=np.int64)])
        return totals[self.stops] - totals[self.starts]


def _stretches(tokens: TokenSet) -> Iterator[tuple[int, int]]:
    """First document and the one behind the last of each stretch."""
    first = 0
    while first < tokens.num_documents:
        limit = int(tokens.offsets[first]) + STRETCH_TOKENS
        last = max(first + 1, int(np.searchsorted(tokens.offsets, limit, side="right")) - 1)
        yield first, last
        first = last
