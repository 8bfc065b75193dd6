"""Rule `boilerplate`: lines of page chrome at the ends of a text, or in company, are taken out.

What a site prints around its texts teaches a model nothing but the site: cookie banners, copyright and ICP lines,
menus, calls to log in, share and subscribe, previous/next, notices of confidentiality, and the licence around books of
Project Gutenberg. Out go
    surely such lines among the first or last lines of a text,
    runs of them anywhere, and menus of single words at the ends,
    all of them where they are a quarter of a text (lists of "title, read more").
A text that is nothing much else is dropped. Sentences that use the same words, code and licences stay.

Which lines are chrome is `chrome_lines`. The gate looks at the first characters of all lines of a batch at once:
pairs of them spare most lines the hash of up to eight.
Not here: markup (`html`); chrome in the middle of a line.
"""

import re
from functools import cache

import numpy as np
import numpy.typing as npt

from minimind.data.rules.chrome_lines import DECORATION, KEY_SIZES, Level, chrome_level, gate_keys
from minimind.data.rules.settings import CleanRules
from minimind.data.rules.texts import Changed, Dropped, Outcomes, Texts

HEAD, TAIL = 4, 6
"""Lines of text that are looked past from the beginning and the end: a title, a date; a signature, a note."""
RUN = 3
"""Lines of chrome one after the other that are no coincidence in the middle of a text."""
MENU_RUN = 4
"""Single words of menus one below the other, at an end; a poem or a list may have three."""
DENSE = 0.25
"""Of lines, from which on chrome is the text's pattern."""
_MAX_DECORATION = 6
"""Characters of decoration that the gate looks past."""
_DECORATION, _ODD, _OTHERS = 1, 2, 3
"""Numbers of letters; 0 for those no key begins with."""
_ODD_LETTERS = "©\u212a\u0130"
"""A key of its own, and two that are k and i in small letters: for these the whole key decides, as for all lines."""
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
"""The golden ratio times 2^64, odd: the usual multiplier for mixing bits."""
_KEY_SHIFT = np.uint64(42)
"""Leaves 22 bits: of a table of 4 MB some 750 entries are set, so one line in 1,100 passes by chance."""
_GUTENBERG_KEYS = frozenset(("start of", "end of t", "end of p"))
_GUTENBERG_START = re.compile(r"[ \t]*\*{3} ?START OF (?:THE|THIS) PROJECT GUTENBERG EBOOK[^\n]*\n?", re.I)
_GUTENBERG_END = re.compile(
    r"^[ \t]*(?:\*{3} ?END OF (?:THE|THIS) PROJECT GUTENBERG EBOOK|End of (?:the )?Project Gutenberg(?:'s|’s| EBook))",
    re.I | re.M,
)
_LICENCE = re.compile(
    r"permission (?:is|to use)|redistribut|licen[cs]ed? (?:under|agreement|for)|terms and conditions for|public domain"
    r"|许可证|许可协议|著作权法|^[^\w\n]*(?:head\d\s+)?copyright(?: and licen[cs]e)?[^\w\n]*$",
    re.I | re.M,
)
"""A text that grants or discusses rights: the copyright lines in it are its own."""
_RIGHTS = re.compile(r"copyright|©|\(c\)|rights reserved|版权", re.I)


def strip_boilerplate(texts: Texts, settings: CleanRules) -> Outcomes:
    """Texts with lines of page chrome, without them; what is hardly anything else is dropped."""
    outcomes: dict[int, Changed | Dropped] = {}
    for index in _candidates(texts):
        text = texts.texts[index]
        left = without_chrome(text)
        if left == text:
            continue
        whole = _letters(_without_gutenberg(text))  # what stands before a licence is the end of a book
        share = 1 - _letters(left) / whole if whole else 1.0
        if share > settings.max_boilerplate_share:
            detail = f"{share:.0%} is page chrome, max_boilerplate_share is {settings.max_boilerplate_share}"
            outcomes[index] = Dropped("boilerplate", detail)
        else:
            outcomes[index] = Changed(left)
    return outcomes


def _letters(text: str) -> int:
    return len("".join(text.split()))


def is_chrome(line: str) -> bool:
    """Whether `line` is page chrome, or could be where there is nothing else."""
    return chrome_level(line) is not Level.TEXT


def without_chrome(text: str) -> str:
    """`text` without its lines of page chrome; what taking some out brings to the ends goes as well."""
    while True:
        before, text = text, _without_once(_without_gutenberg(text))
        if text == before:
            return text


def _without_gutenberg(text: str) -> str:
    if "gutenberg" not in text and "GUTENBERG" not in text and "Gutenberg" not in text:
        return text
    if start := _GUTENBERG_START.search(text):
        text = text[start.end() :].lstrip("\n")
    if end := _GUTENBERG_END.search(text):
        text = text[: end.start()].rstrip()
    return text


def _without_once(text: str) -> str:
    lines = text.split("\n")
    levels = _levels(text, lines)
    filled = [number for number, line in enumerate(lines) if line.strip()]
    out = _at_ends(filled, levels) | _in_runs(filled, levels)
    strong = {number for number in filled if levels[number] is Level.STRONG}
    if len(strong) >= RUN and len(strong) >= DENSE * len(filled):
        out |= strong
    if not out:
        return text
    return _joined(lines, out)


def _levels(text: str, lines: list[str]) -> list[Level]:
    """The level of every line; lines inside code fences are text, and rights in a text about rights."""
    levels, fenced = [], False
    for line in lines:
        fenced ^= line.lstrip().startswith(("```", "~~~"))
        levels.append(Level.TEXT if fenced else chrome_level(line))
    rights = [
        number for number, level in enumerate(levels) if level is not Level.TEXT and _RIGHTS.search(lines[number])
    ]
    if rights and _LICENCE.search(text):
        for number in rights:
            levels[number] = Level.TEXT
    return levels


def _at_ends(filled: list[int], levels: list[Level]) -> set[int]:
    """The sure lines of chrome before the fifth line of text, and behind the seventh last."""
    out = set()
    for numbers, window in ((filled, HEAD), (filled[::-1], TAIL)):
        passed = 0
        for number in numbers:
            if levels[number] is Level.STRONG:
                out.add(number)
            else:
                passed += 1
            if passed > window:
                break
    return out


def _in_runs(filled: list[int], levels: list[Level]) -> set[int]:
    out: set[int] = set()
    run: list[int] = []
    for place, number in enumerate([*filled, -1]):
        if number >= 0 and levels[number] is not Level.TEXT:
            run.append(number)
            continue
        at_end = bool(run) and (run[0] == filled[0] or place == len(filled))
        sure = any(levels[line] is Level.STRONG for line in run)
        if (sure and len(run) >= RUN) or (at_end and len(run) >= MENU_RUN):
            out.update(run)
        run = []
    return out


def _joined(lines: list[str], out: set[int]) -> str:
    """The other lines; of the blank ones around a place where lines went, one side goes too."""
    kept: list[str] = []
    gap = False
    for number, line in enumerate(lines):
        if number in out:
            gap = True
        elif gap and not line.strip() and (not kept or not kept[-1].strip()):
            continue
        else:
            kept.append(line)
            gap = gap and not line.strip()
    while kept and not kept[-1].strip():
        kept.pop()
    while kept and not kept[0].strip():
        kept.pop(0)
    return "\n".join(kept)


def _candidates(texts: Texts) -> list[int]:
    """The texts with a line that begins like chrome and is."""
    codes = texts.codes
    if not len(codes):
        return []
    starts = _likely_starts(codes, texts.offsets)
    likely = _likely_keys()
    hit = np.zeros(len(starts), np.bool_)
    key = np.zeros(len(starts), np.uint64)
    for size in range(1, max(KEY_SIZES) + 1):
        key = (key + _lower(codes, starts + (size - 1))) * _FACTOR
        if size in KEY_SIZES:
            hit |= likely[key >> _KEY_SHIFT]
    found: set[int] = set()
    places = np.sort(starts[hit])
    owners = np.searchsorted(texts.offsets, places, side="right") - 1
    for place, owner in zip(places.tolist(), owners.tolist(), strict=True):
        if owner not in found and _is_chrome_at(texts.texts[owner], place - int(texts.offsets[owner])):
            found.add(owner)
    return sorted(found)


def _likely_starts(codes: npt.NDArray[np.uint32], offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Where lines begin, decoration left aside, with three characters that lines of chrome begin with."""
    letters, pairs = _first_letters()

    def number(places: npt.NDArray[np.int64]) -> npt.NDArray[np.uint16]:
        return letters.take(codes.take(places, mode="clip"), mode="clip")

    starts = np.concatenate((np.flatnonzero(codes == ord("\n")) + 1, offsets[:-1]))
    starts = starts[starts < len(codes)]
    first = number(starts)
    starts, first = starts[first > 0], first[first > 0]
    moving = np.flatnonzero(first == _DECORATION)
    for _ in range(_MAX_DECORATION):
        starts[moving] = np.minimum(starts[moving] + 1, len(codes) - 1)
        first[moving] = number(starts[moving])
        moving = moving[first[moving] == _DECORATION]
    second = number(starts + 1)
    likely = pairs[0][first, second]
    starts, first, second = starts[likely], first[likely], second[likely]
    return starts[pairs[1][second, number(starts + 2)] | (first <= _ODD)]


def _is_chrome_at(text: str, place: int) -> bool:
    start = text.rfind("\n", 0, place) + 1
    end = text.find("\n", place)
    return "GUTENBERG" in (line := text[start : end if end >= 0 else len(text)]).upper() or is_chrome(line)


def _lower(codes: npt.NDArray[np.uint32], places: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """The code points there, A-Z as a-z; 0 behind the end."""
    chars = codes[np.minimum(places, len(codes) - 1)]
    chars[places >= len(codes)] = 0
    chars |= (chars - ord("A") < 26).astype(np.uint32) << 5  # less than 0 is far more than 26
    return chars.astype(np.uint64)


@cache
def _likely_keys() -> npt.NDArray[np.bool_]:
    """Which hashes the first characters of lines of chrome have."""
    likely = np.zeros(1 << 22, np.bool_)
    for text in gate_keys() | _GUTENBERG_KEYS:
        key = 0
        for char in text:
            key = (key + ord(char)) * int(_FACTOR) % (1 << 64)
        likely[key >> int(_KEY_SHIFT)] = True
    return likely


@cache
def _first_letters() -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.bool_]]:
    """A number for every code point, and which numbers the second and the third letter of a key may have.

    As two tables: by the numbers of first and second letter, and of second and third.
    """
    beginnings = {key[:3] for key in gate_keys() | _GUTENBERG_KEYS}
    chars = sorted(set("".join(beginnings)) - set(DECORATION) - set(_ODD_LETTERS))
    letters = np.zeros(1 << 16, np.uint16)
    letters[[ord(char) for char in chars]] = np.arange(_OTHERS, _OTHERS + len(chars))
    letters[ord("A") : ord("Z") + 1] = letters[ord("a") : ord("z") + 1]
    letters[[ord(char) for char in DECORATION]] = _DECORATION
    letters[[ord(char) for char in _ODD_LETTERS]] = _ODD
    pairs = np.zeros((2, _OTHERS + len(chars), _OTHERS + len(chars)), np.bool_)
    pairs[0, [_DECORATION, _ODD]] = True  # more decoration than is looked past; the keys decide
    pairs[1, _ODD] = True
    pairs[:, :, _ODD] = True
    for text in beginnings:
        numbers = letters[[ord(char) for char in text]].tolist()
        for place, letter in enumerate(numbers[:2]):
            pairs[place, letter, numbers[place + 1] if place + 1 < len(numbers) else slice(None)] = True
    return letters, pairs
