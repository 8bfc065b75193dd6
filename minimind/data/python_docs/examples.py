"""Facts that were run: examples out of the documentation, each with what it really shows.

A docstring's examples are cut into snippets that stand for themselves: one line, with the lines
before it that define what it uses. Only snippets that are short, say what they show on one line,
and touch nothing but values are run; `minimind.data.python_docs.probe` runs them and decides.
Not covered: examples that show tracebacks, sets (their order is not fixed) or memory addresses.
"""

import ast
import doctest
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from minimind.data.python_docs import probe
from minimind.data.python_docs.docstrings import Entry

_SAFE_LIST = """
array ast base64 binascii bisect builtins calendar cmath collections colorsys copy dataclasses datetime decimal
difflib enum fractions functools graphlib heapq html http.cookies ipaddress itertools json json.decoder json.encoder
keyword math numbers operator pprint re reprlib shlex statistics string struct textwrap types typing unicodedata
urllib.parse zlib
"""
SAFE_MODULES = frozenset(_SAFE_LIST.split())
"""Modules whose examples only compute; the rest of the library touches files, processes, time or the network."""
_UNSAFE_LIST = """
__builtins__ __import__ __subclasses__ breakpoint compile delattr dir eval exec exit getattr globals hash help id
input io locals memoryview now open os quit random setattr sys time today utcnow uuid1 uuid4 vars
"""
UNSAFE_NAMES = frozenset(_UNSAFE_LIST.split())
MAX_CODE, MAX_SHOWN, MAX_CONTEXT = 90, 60, 3
"""Characters of a line, characters shown, lines of context: a question must stay short."""


@dataclass(frozen=True)
class Fact:
    """`code`, after `context`, in the names of `module`, shows `shown`."""

    group: str
    module: str
    context: tuple[str, ...]
    code: str
    shown: str


def verified_facts(entries: Iterable[Entry], topics: Iterable[tuple[str, str]]) -> list[Fact]:
    """The facts of `entries` and of `topics` (group, text) that two runs agree on, in their order."""
    candidates: dict[tuple[object, ...], Fact] = {}
    for entry in entries:
        if entry.module in SAFE_MODULES and ">>> " in entry.doc:
            for fact in candidate_facts(entry.doc, group=entry.group, module=entry.module):
                candidates.setdefault((fact.context, fact.code), fact)
    for group, text in topics:
        for fact in candidate_facts(text, group=group, module="builtins"):
            candidates.setdefault((fact.context, fact.code), fact)
    facts = list(candidates.values())
    examples = [probe.Example(fact.module, (*fact.context, fact.code), fact.shown) for fact in facts]
    return [fact for fact, verified in zip(facts, probe.verify(examples), strict=True) if verified]


def candidate_facts(text: str, *, group: str, module: str) -> list[Fact]:
    """What the examples in `text` claim, as snippets that are worth running."""
    try:
        examples = doctest.DocTestParser().get_examples(text)
    except ValueError:  # prompts that are not examples
        return []
    facts = []
    for number, example in enumerate(examples):
        code, shown = example.source.strip(), example.want.rstrip("\n")
        if not _is_worth_asking(code, shown):
            continue
        context = _context(examples[:number], code)
        if context is not None and all(_is_safe(line) for line in (*context, code)):
            facts.append(Fact(group, module, context, code, shown))
    return facts


def wrong_answers(facts: Sequence[Fact]) -> dict[Fact, str]:
    """For each fact a value of the same type that another fact of its module shows, or one off where there is none."""
    by_type: dict[tuple[str, str], list[str]] = {}
    for fact in facts:
        by_type.setdefault((fact.module, _type_of(fact.shown)), []).append(fact.shown)
    wrong = {}
    for number, fact in enumerate(facts):
        others = [s for s in by_type[fact.module, _type_of(fact.shown)] if not _is_same(s, fact.shown)]
        answer = others[number % len(others)] if others else _one_off(fact.shown)
        if answer is not None:
            wrong[fact] = answer
    return wrong


def _is_worth_asking(code: str, shown: str) -> bool:
    if not shown or "\n" in code or "\n" in shown or len(code) > MAX_CODE or len(shown) > MAX_SHOWN:
        return False
    if re.search(r"\.\.\.|Traceback|0x[0-9a-f]{6}|<|>|#|\{(?!\})(?![^}]*:)|\bset\(|frozenset|\\", shown):
        return False
    return shown.isascii() and "#" not in code and code.strip("()' \"") != shown.strip("()' \"")


def _context(before: Sequence[doctest.Example], code: str) -> tuple[str, ...] | None:
    """The earlier lines that define or change what `code` uses, or None if those are too many."""
    needed, lines = _names(code), []
    for example in reversed(before):
        line = example.source.strip()
        names = _names(line)
        if not example.want and needed & names:
            lines.append(line)
            needed |= names
    short = len(lines) <= MAX_CONTEXT and all("\n" not in line and len(line) <= MAX_CODE for line in lines)
    return tuple(reversed(lines)) if short else None


def _names(code: str) -> set[str]:
    try:
        tree = ast.parse(code)
    except SyntaxError:
        return set()
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    imported = [
        alias for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names
    ]
    return names | {(alias.asname or alias.name).partition(".")[0] for alias in imported}


def _is_safe(line: str) -> bool:
    """Whether the line names nothing that reaches beyond values."""
    try:
        tree = ast.parse(line)
    except SyntaxError:
        return False
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and (node.id in UNSAFE_NAMES or node.id.startswith("_")):
            return False
        if isinstance(node, ast.Attribute) and (node.attr in UNSAFE_NAMES or node.attr.startswith("_")):
            return False
        if isinstance(node, ast.Import) and any(alias.name not in SAFE_MODULES for alias in node.names):
            return False
        if isinstance(node, ast.ImportFrom) and node.module not in SAFE_MODULES:
            return False
    return True


def _type_of(shown: str) -> str:
    """`Decimal` for `Decimal('1')`, `int` for `1`, `text` for what is printed and is no value."""
    if found := re.match(r"([A-Za-z_][\w.]*)\(", shown):
        return found[1]
    try:
        return type(ast.literal_eval(shown)).__name__
    except (ValueError, SyntaxError):
        return "text"


def _is_same(a: str, b: str) -> bool:
    return a.replace('"', "'").casefold() == b.replace('"', "'").casefold()


def _one_off(shown: str) -> str | None:
    """`shown` with its first number one higher, or its truth turned round; None where it has neither."""
    if shown in ("True", "False"):
        return "False" if shown == "True" else "True"
    changed = re.sub(r"(?<![\w.])\d{1,15}(?![\w.])", lambda match: str(int(match[0]) + 1), shown, count=1)
    return changed if changed != shown else None
