"""The documentation inside a Python installation, as entries: module, name, kind, signature, docstring.

Python modules are read by syntax tree and never imported, so reading has no side effects and does
not care whether a module would run here. Compiled modules (`builtins`, `math`, `itertools`, …)
have no source: `minimind.data.python_docs.probe` asks a child process for theirs. The long reference texts come
from `pydoc_data/topics.py`, read by syntax tree too.
Order is that of the paths and of the definitions in a file, so two readings give the same entries.
Not here: what rows are made of the entries (`minimind.data.python_docs.facts`, `minimind.data.python_docs.pydocs`).
"""

import ast
import logging
import os
import re
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from minimind.data.python_docs import probe

logger = logging.getLogger(__name__)

EXCERPT_SHARE = 0.25
"""A topic of whose text so much stands in longer topics is left out."""

EntryKind = Literal["module", "class", "function", "method", "property"]

PUBLIC_NAMES = {
    "_collections_abc": "collections.abc",
    "_pydatetime": "datetime",
    "_pydecimal": "decimal",
    "_pyio": "io",
}
"""Modules with a private name whose docstrings are those of a public module that is written in C."""

SKIPPED_DIRECTORIES = {"__pycache__", "idle_test", "test", "testing", "tests", "turtledemo"}
"""Besides those whose names no module can have, like site-packages."""
MAX_FILE_BYTES = 1 << 20
"""Larger files in site-packages are generated tables; the standard library has none with docstrings."""


@dataclass(frozen=True)
class Entry:
    """One documented object. `signature` is `(a, b=1)` without annotations, or "" where there is none."""

    group: str
    module: str
    name: str
    kind: EntryKind
    signature: str
    doc: str

    @property
    def full_name(self) -> str:
        """The name a person would type: `json.dumps`, `len`."""
        if not self.name:
            return self.module
        return self.name if self.module == "builtins" else f"{self.module}.{self.name}"

    @property
    def is_public(self) -> bool:
        """Whether no part of the name says that it is for internal use; `__init__` and the like do too."""
        return not any(part.startswith("_") for part in f"{self.module}.{self.name}".split("."))


def stdlib_directory() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def installed_directory() -> Path:
    return Path(sysconfig.get_path("purelib"))


def source_files(root: Path) -> list[Path]:
    """The modules' files below `root`, in the order in which they are read; tests and demos left out."""
    files = []
    for directory, below, names in os.walk(root):
        below[:] = [name for name in below if name.isidentifier() and name not in SKIPPED_DIRECTORIES]
        files += [Path(directory, name) for name in names if name.endswith(".py") and name[:-3].isidentifier()]
    return sorted(files, key=lambda path: path.relative_to(root).with_suffix("").parts)


def read_entries(root: Path, *, group_prefix: str, only: Iterable[str] | None = None) -> Iterator[Entry]:
    """The documented objects of the modules below `root`; `only` names the top-level modules wanted."""
    wanted = None if only is None else set(only)
    for path in source_files(root):
        module = module_name(path.relative_to(root))
        top = module.partition(".")[0]
        if wanted is not None and top not in wanted:
            continue
        tree = _parse(path)
        if tree is not None:
            yield from _module_entries(tree, module, f"{group_prefix}/{top}")


def compiled_entries(root: Path, *, group_prefix: str, only: Iterable[str] | None = None) -> Iterator[Entry]:
    """The documented public objects of the standard library's compiled modules, under their public names."""
    wanted = None if only is None else set(only)
    mentions: dict[str, str] = {}
    for found in probe.compiled_docs():
        module = _public_home(found.module, found.name, root, mentions)
        if module is None or (wanted is not None and module not in wanted):
            continue
        doc, signature = _without_signature_line(found.doc, found.name)
        if doc:
            yield Entry(f"{group_prefix}/{module}", module, found.name, found.kind, found.signature or signature, doc)


def read_topics(root: Path) -> dict[str, str]:
    """The language reference as pydoc shows it: topic → text. Empty, with a warning, where it is not installed."""
    path = root / "pydoc_data" / "topics.py"
    tree = _parse(path) if path.exists() else None
    for node in tree.body if tree else ():
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            topics = {topic: text.strip("\n") + "\n" for topic, text in ast.literal_eval(node.value).items()}
            return {topic: topics[topic] for topic in sorted(_without_excerpts(topics))}
    logger.warning("%s: no topics there; the language reference is left out", path)
    return {}


def _without_excerpts(topics: dict[str, str]) -> set[str]:
    """The topics that are not for the most part paragraphs of a longer one.

    `attribute-access` is a section of `specialnames`, and so on. Each topic is a group of its own, so such
    a pair would put the same text on both sides of the split between training and validation.
    """
    kept, seen = set(), set()
    for topic in sorted(topics, key=lambda topic: (-len(topics[topic]), topic)):
        paragraphs = [" ".join(paragraph.split()) for paragraph in topics[topic].split("\n\n")]
        known = sum(len(paragraph) for paragraph in paragraphs if paragraph in seen)
        if known < EXCERPT_SHARE * sum(map(len, paragraphs)):
            kept.add(topic)
            seen.update(paragraphs)
    return kept


def module_name(relative: Path) -> str:
    """`json/__init__.py` → `json`, `_pydecimal.py` → `decimal`."""
    parts = [part for part in relative.with_suffix("").parts if part != "__init__"]
    return ".".join([PUBLIC_NAMES.get(parts[0], parts[0]), *parts[1:]])


def _parse(path: Path) -> ast.Module | None:
    """The syntax tree, or None for what is no module of this Python version (templates, Python 2, tables)."""
    if path.stat().st_size > MAX_FILE_BYTES:
        return None
    try:
        with warnings.catch_warnings():  # other people's invalid escapes are not our user's business
            warnings.simplefilter("ignore")
            return ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError) as error:
        logger.debug("%s is not read: %s", path, error)
        return None


def _module_entries(tree: ast.Module, module: str, group: str) -> Iterator[Entry]:
    if doc := ast.get_docstring(tree):
        yield Entry(group, module, "", "module", "", doc)
    seen: set[str] = set()
    for node, path in _definitions(tree.body, ()):
        name = ".".join(path)
        if name in seen:  # overloads and the setters of properties
            continue
        if doc := ast.get_docstring(node):
            seen.add(name)
            kind = _kind(node, len(path) > 1)
            signature = "" if kind == "property" else _signature(node, len(path) > 1)
            yield Entry(group, module, name, kind, signature, doc)


Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def _definitions(body: list[ast.stmt], above: tuple[str, ...]) -> Iterator[tuple[Definition, tuple[str, ...]]]:
    """Functions and classes, also those below `if` and `try`, and the members of classes."""
    for node in body:
        if isinstance(node, Definition):
            yield node, (*above, node.name)
            if isinstance(node, ast.ClassDef):
                yield from _definitions(node.body, (*above, node.name))
        elif isinstance(node, ast.If | ast.Try):
            handlers = [handler.body for handler in getattr(node, "handlers", [])]
            for inner in (node.body, *handlers, node.orelse):
                yield from _definitions(inner, above)


def _kind(node: Definition, member: bool) -> EntryKind:
    if isinstance(node, ast.ClassDef):
        return "class"
    names = {ast.unparse(decorator).rpartition(".")[2] for decorator in node.decorator_list}
    if member and names & {"property", "cached_property", "abstractproperty"}:
        return "property"
    return "method" if member else "function"


def _signature(node: Definition, member: bool) -> str:
    """`(a, *, b=1)` without annotations and without self; of a class, that of its `__init__`."""
    if isinstance(node, ast.ClassDef):
        inits = [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
        return _signature(inits[-1], True) if inits else ""
    arguments = node.args
    decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
    bound = member and "staticmethod" not in decorators
    for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
        argument.annotation = None
    for argument in filter(None, (arguments.vararg, arguments.kwarg)):
        argument.annotation = None
    text = ast.unparse(arguments)
    if bound and (arguments.posonlyargs or arguments.args):
        text = text.partition(", ")[2]
        text = text.removeprefix("/, ") if text != "/" else ""
    return f"({text})"


def _public_home(module: str, name: str, root: Path, mentions: dict[str, str]) -> str | None:
    """The public module that hands out a compiled object: `_bisect.insort` → `bisect`; None if there is none."""
    public = {"posix": "os", "_thread": "threading"}.get(module, module.lstrip("_"))
    if public == module:
        return module
    if public not in mentions:
        paths = (root / f"{public}.py", root / public / "__init__.py", root / public / "dbapi2.py")
        mentions[public] = "\n".join(path.read_text("utf-8") for path in paths if path.exists())
    source = mentions[public]
    everything = re.search(rf"^\s*from {module} import \*", source, re.MULTILINE)
    first = name.partition(".")[0]
    return public if everything or re.search(rf"^\s*from {module} import .*\b{first}\b", source, re.MULTILINE) else None


def _without_signature_line(doc: str, name: str) -> tuple[str, str]:
    """Docstring and signature, where old C docstrings begin with lines like `D.get(k[,d]) -> value`."""
    last = re.escape(name.rpartition(".")[2])
    head = re.compile(rf"(?:\w+\.)?{last}(\([^\n]*?\))(?: -+> ?[^\n]*?)?(?:\n|\Z| -- |\.  )")
    signature = ""
    while match := head.match(doc):
        signature = signature or ("" if "[" in match[1] else match[1])
        doc = doc[match.end() :].lstrip("\n")
    return doc.strip(), signature
