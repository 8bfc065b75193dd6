"""Checks of an answer's form: words, beginning and end, capitals, language, points, sentences, commas, quotes.

Every expression is read once, however odd the text. Not here: what is said in that form (`checks`).
"""

import re
from typing import Literal

from minimind.data.rules.language import UNDETERMINED, languages
from minimind.data.rules.texts import Texts
from minimind.evaluate.prompts.said import Check, Count, Said, SomeTexts, either

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+(?:['’-][^\W{_CJK}]+)*")
_BULLET = re.compile(r"\A[ \t]*(?:[-*•][ \t]+|\d{1,3}(?:[.)][ \t]+|、[ \t]*))(?=\S)")
# A run of marks is looked at from its start only, or a text of nothing else would take quadratic time.
_SENTENCE_END = re.compile(r"""[。！？]+["'”’」』）)]*|(?<![.!?…])[.!?…]++["'”’)\]]*+(?=\s|\Z)|\n+""")
_QUOTES = (('"', '"'), ("“", "”"), ("「", "」"), ("『", "』"), ("«", "»"))


class MaxWords(Check):
    """At most so many words; a Chinese or Japanese character is one."""

    kind: Literal["max_words"]
    count: Count

    def fault(self, said: Said) -> str | None:
        words = num_words(said.content)
        return None if words <= self.count else f"{words} words, more than {self.count}"


class MinWords(Check):
    """At least so many words; a Chinese or Japanese character is one."""

    kind: Literal["min_words"]
    count: Count

    def fault(self, said: Said) -> str | None:
        words = num_words(said.content)
        return None if words >= self.count else f"{words} words, fewer than {self.count}"


class StartsWith(Check):
    """The answer begins with one of these."""

    kind: Literal["starts_with"]
    any_of: SomeTexts

    def fault(self, said: Said) -> str | None:
        return None if said.content.startswith(self.any_of) else f"does not start with {either(self.any_of)}"


class EndsWith(Check):
    """The answer ends with one of these."""

    kind: Literal["ends_with"]
    any_of: SomeTexts

    def fault(self, said: Said) -> str | None:
        return None if said.content.endswith(self.any_of) else f"does not end with {either(self.any_of)}"


class Lowercase(Check):
    """There are letters, and none is a capital."""

    kind: Literal["lowercase"]

    def fault(self, said: Said) -> str | None:
        if not any(map(str.islower, said.content)):
            return "no small letters"
        return "has capital letters" if any(map(str.isupper, said.content)) else None


class Uppercase(Check):
    """There are letters, and all are capitals."""

    kind: Literal["uppercase"]

    def fault(self, said: Said) -> str | None:
        if not any(map(str.isupper, said.content)):
            return "no capital letters"
        return "has small letters" if any(map(str.islower, said.content)) else None


class Language(Check):
    """The answer is in this language. Fewer than seven Chinese characters or some five English words are in none."""

    kind: Literal["language"]
    code: Literal["zh", "en"]

    def fault(self, said: Said) -> str | None:
        (found,) = languages(Texts([said.content]))
        if found == UNDETERMINED:
            return f"its language cannot be told, {self.code} was expected"
        return None if found == self.code else f"is in {found}, not in {self.code}"


class Bullets(Check):
    """Exactly so many lines are points of a list: they begin with -, *, • or a number."""

    kind: Literal["bullets"]
    count: Count

    def fault(self, said: Said) -> str | None:
        points = sum(_BULLET.match(line) is not None for line in said.content.splitlines())
        return None if points == self.count else f"{points} points of a list, not {self.count}"


class Sentences(Check):
    """Exactly so many sentences. They end with a line, or a mark; a dot is one before a blank (`Dr. X`, not `3.5`)."""

    kind: Literal["sentences"]
    count: Count

    def fault(self, said: Said) -> str | None:
        lines = (_BULLET.sub("", line) for line in said.content.splitlines())
        found = sum(_WORD.search(part) is not None for part in _SENTENCE_END.split("\n".join(lines)))
        return None if found == self.count else f"{found} sentences, not {self.count}"


class NoComma(Check):
    """No comma, narrow or wide; the mark of a Chinese enumeration (、) is none."""

    kind: Literal["no_comma"]

    def fault(self, said: Said) -> str | None:
        return "has a comma" if "," in said.content or "，" in said.content else None


class Quoted(Check):
    """The whole answer stands in quotation marks."""

    kind: Literal["quoted"]

    def fault(self, said: Said) -> str | None:
        text = said.content
        stands = any(len(text) > 2 and text.startswith(a) and text.endswith(b) for a, b in _QUOTES)
        return None if stands else "is not in quotation marks"


def num_words(text: str) -> int:
    """Words of a text; a Chinese or Japanese character is one."""
    return sum(1 for _ in _WORD.finditer(text))
