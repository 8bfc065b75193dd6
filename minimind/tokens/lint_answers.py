"""Rules that need all answers: which break off where the others do not, lengths at a limit, one answer for many.

Ends of answers differ by language and by kind, so only long prose is judged: its last line has a whole sentence in it
and is no item of a list, no code, no signature, no hashtags. A comma, or a word like "the", at the end is enough by
itself. A missing full stop is told of where four fifths of such answers have one, and of English only: many Chinese
writers leave the last one out.
"""

import re
from array import array
from dataclasses import dataclass, field

import numpy as np
import xxhash

from minimind.tokens.lint_rules import Findings, Place

SAME_SHARE = 0.05
"""Of all answers, from which one answer is too common; `MIN_SAME` at least."""
MIN_SAME = 20
LIMIT_SHARE = 0.002
MIN_AT_LIMIT = 8
"""Answers of exactly the greatest length from which it is a limit."""
CLOSED_SHARE = 0.8
MIN_PROSE = 20

_LIST_ITEM = re.compile(r"\s*(?:[-*•·#>|]|\(?\d+[.)、:：]|\(?[a-zA-Z][.)])")
_HAN = re.compile(r"[\u3400-\u9fff\u3040-\u30ff]")
_CODE = re.compile(r"[{}=<>\\$^|]|https?://|www\.|[#＃]\w")
_SENTENCE_END = re.compile(r"[.!?…][\s\"”’)]|[。！？；]")
_SIGNED = re.compile(
    r"(?:sincerely|regards|yours|love|cheers|faithfully)\b[^.!?]{0,60}$|[—–-]{1,2} ?[^—–-]{1,40}$", re.IGNORECASE
)
_UNFINISHED_WORD = re.compile(
    r"\b(?:the|an?|of|and|or|to|with|in|for|that|is|are|was|were|by|from|as|at|but|their|its|your|our|if|when|which|"
    r"because|than|then|this|these|into|on)$"
)
_MIN_LINE = 60
_MIN_LINE_HAN = 30
_MIN_TAIL = 40
"""Characters after the last whole sentence: less may be a name or a title."""


@dataclass
class Answers:
    """The last answers of all rows, as digests and lengths: 17 bytes each."""

    findings: Findings
    _digests: array = field(default_factory=lambda: array("Q"))
    _lengths: array = field(default_factory=lambda: array("q"))
    _open: array = field(default_factory=lambda: array("b"))
    """1 for an answer whose last character is a letter, a digit or a comma."""
    _first: dict[int, tuple[Place, str]] = field(default_factory=dict)
    _longest: tuple[int, Place, str] | None = None
    _without_stop: list[tuple[Place, str]] = field(default_factory=list)
    _num_without_stop: int = 0
    _num_closed: int = 0

    def add(self, answer: str, place: Place) -> None:
        text = answer.strip()
        if not text:
            return
        digest = xxhash.xxh3_64_intdigest(text.encode("utf-8", "replace"))
        if len(self._digests) < 1000:  # an answer that is that of every twentieth row is among the first
            self._first.setdefault(digest, (place, text))
        self._digests.append(digest)
        self._lengths.append(len(text))
        self._open.append(text[-1].isalnum() or text[-1] in ",，、")
        if self._longest is None or len(text) > self._longest[0]:
            self._longest = len(text), place, text[-80:]
        self._judge_end(text, place)

    def conclude(self) -> None:
        """Tell what only all answers together show."""
        if not self._digests:
            return
        self._tell_of_missing_stops()
        self._tell_of_the_limit()
        digests, counts = np.unique(np.frombuffer(self._digests, np.uint64), return_counts=True)
        most = int(counts.max())
        if most >= max(MIN_SAME, SAME_SHARE * len(self._digests)):
            known = self._first.get(int(digests[counts.argmax()]))
            if known:
                told = f"the answer of {most:,} of {len(self._digests):,} rows, first here"
                self.findings.add("same_answer", known[0], told, known[1])

    def _judge_end(self, text: str, place: Place) -> None:
        end = end_of(text)
        if end in ("closed", "no_stop"):
            self._num_closed += end == "closed"
            self._num_without_stop += end == "no_stop"
            if end == "no_stop" and len(self._without_stop) < 100:
                self._without_stop.append((place, text[-80:]))
        elif end:
            self.findings.add("truncated_answer", place, end, "… " + text[-80:])

    def _tell_of_missing_stops(self) -> None:
        prose = self._num_closed + self._num_without_stop
        if prose < MIN_PROSE or self._num_closed < CLOSED_SHARE * prose:
            return
        told = f"no full stop; {self._num_closed:,} of {prose:,} answers in prose have one"
        for place, tail in self._without_stop:
            self.findings.add("truncated_answer", place, told, "… " + tail)
        if more := self._num_without_stop - len(self._without_stop):
            self.findings.add("truncated_answer", self._without_stop[-1][0], told, count=more)

    def _tell_of_the_limit(self) -> None:
        """Answers of the greatest length that end in mid-sentence: equal lengths alone may be a template's."""
        lengths, is_open = np.frombuffer(self._lengths, np.int64), np.frombuffer(self._open, np.int8)
        longest, place, tail = self._longest or (0, Place(file=""), "")
        at_limit = int(is_open[lengths == longest].sum())
        just_below = int(((lengths >= 0.9 * longest) & (lengths < longest)).sum())
        enough = max(MIN_AT_LIMIT, LIMIT_SHARE * len(lengths))
        if longest >= _MIN_LINE and at_limit >= enough and at_limit > just_below:
            told = f"{at_limit:,} of {len(lengths):,} answers break off at exactly {longest} characters, none is longer"
            self.findings.add("length_limit", place, told, "… " + tail)


def end_of(text: str) -> str:
    """How an answer ends: `closed`, `no_stop`, in words how it breaks off, or nothing where that cannot be told."""
    text = text.rstrip()
    if text.count("```") % 2:
        rest = text.rsplit("```", 1)[1].rstrip()
        return "" if rest[-1:] in ".!?。！？" else "a code block is not closed"
    last = text.rsplit("\n", 1)[-1]
    is_han = bool(_HAN.search(last))
    if "```" in text or len(last) < (_MIN_LINE_HAN if is_han else _MIN_LINE) or _LIST_ITEM.match(last):
        return ""
    if _CODE.search(last) or not (ends := list(_SENTENCE_END.finditer(last[:-1]))):
        return ""
    if last[-1] in ",，、":
        return "it ends with a comma"
    if not last[-1].isalnum():
        return "closed"
    if is_han:
        return ""
    if _UNFINISHED_WORD.search(last):
        return f"it ends with “{last.split()[-1]}”"
    tail = last[ends[-1].end() :]
    certain = len(tail) >= _MIN_TAIL and not _SIGNED.search(last) and last.split()[-1].islower()
    return "no_stop" if certain else ""
