"""`length`: texts too short to say anything, and too long to be one text.

Characters are weighted by what they say: a Han, kana or Hangul one counts for three Latin letters. A run of white
space counts as one character, and at the ends as none. What has no letter at all (page numbers, dates, rulers) must
be three times as long, since a row of figures says something only as a table.

Not here: whether the words mean anything (`gibberish`), or say the same again (`repetition`).
"""

import numpy as np

from minimind.data.rules.settings import CleanRules
from minimind.data.rules.texts import Changed, CharClass, Dropped, Outcomes, Texts

CJK_WEIGHT = 3
"""A Han, kana or Hangul character says about as much as three Latin letters, and has as many bytes."""
LETTERLESS = 3
"""How many times `min_characters` a text without a letter needs: three lines of a table."""
CJK = (CharClass.HAN, CharClass.RARE_HAN, CharClass.KANA, CharClass.HANGUL)
LETTERS = (CharClass.LOWER, CharClass.UPPER, CharClass.LATIN, CharClass.CYRILLIC, CharClass.LETTER, *CJK)
_BLANK = (CharClass.SPACE, CharClass.NEWLINE, CharClass.HIDDEN)


def limit_length(texts: Texts, settings: CleanRules) -> Outcomes:
    """The texts of which too little or too much is there."""
    cjk = (CJK_WEIGHT - 1) * texts.count(*CJK)
    all_weights = texts.lengths + cjk
    visible = all_weights - texts.count(*_BLANK)  # white space in between is counted for those few it could save
    least = np.where(texts.count(*LETTERS) > 0, 1, LETTERLESS) * settings.min_characters
    outcomes: dict[int, Changed | Dropped] = {}
    for i in np.flatnonzero(visible < least).tolist():
        weight = len(" ".join(texts.texts[i].split())) + int(cjk[i])
        if weight < least[i]:
            outcomes[i] = Dropped("too_short", _short(weight, int(least[i]), settings))
    for i in np.flatnonzero(all_weights > settings.max_characters).tolist():
        weight = int(all_weights[i])
        detail = f"{weight} characters (a CJK one counts {CJK_WEIGHT}), max_characters is {settings.max_characters}"
        outcomes.setdefault(i, Dropped("too_long", detail))
    return outcomes


def _short(weight: int, least: int, settings: CleanRules) -> str:
    found = f"{weight} characters (a CJK one counts {CJK_WEIGHT})"
    if least > settings.min_characters:
        return f"{found} and no letter among them, min_characters is {settings.min_characters}, {least} without letters"
    return f"{found}, min_characters is {settings.min_characters}"
