"""The embedded default: text that every machine with Python has, as rows of all three kinds.

- pretrain: a document for each documented object of the standard library (kind, name and signature on the
  first line, then the docstring as it is), and the topics of the language reference.
- chat: short conversations derived from the same summaries and signatures, and from examples that were run.
- preference: a true answer against a well-formed wrong one.

With `packages = "installed"` the docstrings of all packages in site-packages come after the standard library's.
Rows carry a `group`, the top-level module or package (each topic is its own), so that nothing about one
module is split between training and validation. Nothing is made up and nothing is fetched; another Python
version gives other rows, and `content_digest` says so.
"""

import hashlib
import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, groupby
from typing import Any, Literal

from minimind.data.documents import RowKind
from minimind.data.python_docs import docstrings, examples, facts
from minimind.data.python_docs.docstrings import Entry

logger = logging.getLogger(__name__)

Packages = Literal["stdlib", "installed"]


def content_digest(packages: Packages) -> str:
    """A digest of what `rows` reads: the source files, their names, and the version and build of Python.

    Compiled modules and what examples show are covered by the build. 0.1 s for the standard library.
    """
    digest = hashlib.sha256(f"{sys.version}\n{sys.platform}\n".encode())
    roots = [docstrings.stdlib_directory(), *([docstrings.installed_directory()] if packages == "installed" else [])]
    for root in roots:
        for path in [*docstrings.source_files(root), root / "pydoc_data" / "topics.py"]:
            if path.exists():
                content = path.read_bytes()
                digest.update(f"{path.relative_to(root).as_posix()}\n{len(content)}\n".encode() + content)
    return digest.hexdigest()[:16]


def rows(
    kind: RowKind, packages: Packages = "stdlib", *, only: Iterable[str] | None = None
) -> Iterator[dict[str, Any]]:
    """The rows of `kind`, numbered from 1 in `line`; `only` limits them to some top-level modules."""
    for number, row in enumerate(_ROWS[kind](packages, None if only is None else frozenset(only)), start=1):
        yield {"line": number, **row}


def _pretrain_rows(packages: Packages, only: frozenset[str] | None) -> Iterator[dict[str, Any]]:
    said: set[bytes] = set()
    for group, doc, text in _documents(packages, only):
        key = hashlib.sha256(doc.encode("utf-8", "surrogatepass")).digest()[:12]
        if key not in said:  # inherited and copied docstrings count once
            said.add(key)
            yield {"group": group, "text": text}


def _documents(packages: Packages, only: frozenset[str] | None) -> Iterator[tuple[str, str, str]]:
    """Group, documentation, and the same under its heading."""
    for entries in chain(_library(only), _packages(packages, only)):
        for entry in entries:
            heading = f"{entry.kind.capitalize()} {entry.full_name}{entry.signature}"
            yield entry.group, entry.doc, f"{heading}\n\n{entry.doc.strip()}\n"
    yield from ((group, text, text) for group, text in _topics(only))


def _chat_rows(packages: Packages, only: frozenset[str] | None) -> Iterator[dict[str, Any]]:
    library, said = _library(only), set()
    for group, turns in _conversations(library, packages, only):
        if (key := repr(turns)) not in said:
            said.add(key)
            yield {"group": group, "conversations": [message for turn in turns for message in _messages(*turn)]}


def _conversations(
    library: list[list[Entry]], packages: Packages, only: frozenset[str] | None
) -> Iterator[tuple[str, list[facts.Turn]]]:
    for entries in chain(library, _packages(packages, only)):
        for turns in facts.conversations(facts.known_entries(entries)):
            yield entries[0].group, turns
    for fact in _facts(library, only):
        yield fact.group, facts.fact_conversation(fact)


def _preference_rows(packages: Packages, only: frozenset[str] | None) -> Iterator[dict[str, Any]]:
    library = _library(only)
    for entries in chain(library, _packages(packages, only)):
        for pair in facts.pairs(facts.known_entries(entries)):
            yield from _preference(entries[0].group, pair)
    for fact, wrong in examples.wrong_answers(_facts(library, only)).items():
        yield from _preference(fact.group, facts.fact_pair(fact, wrong))


_ROWS: dict[RowKind, Callable[[Packages, frozenset[str] | None], Iterator[dict[str, Any]]]] = {
    "pretrain": _pretrain_rows,
    "chat": _chat_rows,
    "preference": _preference_rows,
}


def _library(only: frozenset[str] | None) -> list[list[Entry]]:
    """The standard library's entries, a list for each top-level module."""
    root = docstrings.stdlib_directory()
    library: dict[str, dict[str, Entry]] = {}
    for read in (docstrings.read_entries, docstrings.compiled_entries):
        for entry in read(root, group_prefix="stdlib", only=only):
            # A function written in both languages is documented by the Python one, which says more.
            library.setdefault(entry.group, {}).setdefault(entry.full_name, entry)
    return [list(entries.values()) for _, entries in sorted(library.items())]


def _packages(packages: Packages, only: frozenset[str] | None) -> Iterator[list[Entry]]:
    """The installed packages' entries, a list for each; none for the standard library alone."""
    if packages == "installed":
        found = docstrings.read_entries(docstrings.installed_directory(), group_prefix="installed", only=only)
        for _, entries in groupby(found, key=lambda entry: entry.group):
            yield list(entries)


def _topics(only: frozenset[str] | None) -> list[tuple[str, str]]:
    """Group and text of each topic; they count as the module `pydoc_data`, where they are."""
    if only is not None and "pydoc_data" not in only:
        return []
    topics = docstrings.read_topics(docstrings.stdlib_directory())
    return [(f"topic/{name}", text) for name, text in topics.items()]


def _facts(library: list[list[Entry]], only: frozenset[str] | None) -> list[examples.Fact]:
    """What the standard library's examples were seen to show; those of installed packages are never run."""
    return examples.verified_facts((entry for entries in library for entry in entries), _topics(only))


def _messages(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _preference(group: str, pair: facts.Pair) -> Iterator[dict[str, Any]]:
    question, chosen, rejected = pair
    if chosen != rejected:
        yield {"group": group, "chosen": _messages(question, chosen), "rejected": _messages(question, rejected)}
