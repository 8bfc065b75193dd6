"""Identity of a stage's output: content ⊕ configuration ⊕ code.

A fingerprint is the digest of named parts, and the parts are kept in the manifest, so that a
miss can be explained down to the key, file or module. Code counts by its syntax tree without
comments and docstrings, for every `minimind` module that the stage can reach by imports. What a
tree looks like is Python's business: another minor version may give other digests.
Not in it: library versions, devices, paths (recorded in the manifest, but no reason to rerun).

Reading the trees of 80 modules takes a fifth of a second, so what was read is kept beside Python's
own compiled files and under their rules (`PYTHONDONTWRITEBYTECODE`, `PYTHONPYCACHEPREFIX`). It is
believed only for the very bytes it was read from, and as it was written: digests of both stand in it.
"""

import ast
import hashlib
import importlib.util
import json
import os
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from minimind.config import Config

PACKAGE = "minimind"
_ROOT = Path(__file__).parent
_KEPT_SUFFIX = ".code.json"
_SAYS_NOTHING = ("ctx", "kind", "type_comment", "type_ignores")
"""Fields of a syntax tree that follow from the others, or are comments."""
LENGTH = 16
"""Hexadecimal digits kept: 64 bits, for stores of at most millions of artifacts."""


class Parts(Config):
    """What a fingerprint is made of. `inputs` and `sources` map names to digests, `code` modules to digests."""

    stage: str
    format_version: int
    config: dict[str, Any]
    inputs: dict[str, str] = {}
    sources: dict[str, str] = {}
    code: dict[str, str] = {}

    @property
    def label(self) -> str:
        """`tokens-chat`: the stage, and the kind of rows it is for where there are several."""
        rows = self.config.get("rows")
        return f"{self.stage}-{rows}" if rows else self.stage

    def fingerprint(self) -> str:
        return digest(self.model_dump(mode="json"))


ChangedPart = Literal["format", "config", "input", "source", "code"]


@dataclass(frozen=True)
class Change:
    """One thing in which two sets of parts differ. None stands for what one of them has not."""

    part: ChangedPart
    name: str
    old: Any
    new: Any

    def __str__(self) -> str:
        """`config lr: 0.001 → 0.0003`."""
        return f"{self.part} {self.name}: {self.values}"

    @property
    def values(self) -> str:
        """`0.001 → 0.0003`."""
        return " → ".join("(none)" if value is None else str(value) for value in (self.old, self.new))


def digest(value: Any) -> str:
    """The shortened sha256 of a JSON-ready value; the order of keys does not matter."""
    canonical = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()[:LENGTH]


def explain(old: Parts, new: Parts) -> list[Change]:
    """What differs between two sets of parts, down to the key, input, file or module."""
    changes = []
    if old.format_version != new.format_version:
        changes.append(Change("format", "version", old.format_version, new.format_version))
    groups: dict[str, ChangedPart] = {"config": "config", "inputs": "input", "sources": "source", "code": "code"}
    for field, part in groups.items():
        before, after = flatten(getattr(old, field)), flatten(getattr(new, field))
        for name in sorted({*before, *after}):
            if before.get(name) != after.get(name):
                changes.append(Change(part, name, before.get(name), after.get(name)))
    return changes


def code_digests(modules: Iterable[str]) -> dict[str, str]:
    """Module name → digest of its syntax tree, for `modules` and all they import from the package.

    Nothing is imported for it.
    """
    found: dict[str, str] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        path = _module_path(name)
        found[name], imported = _read_module(path, path.stat().st_mtime_ns)
        waiting.extend(module for module in imported if _is_module(module))
    return dict(sorted(found.items()))


@cache
def _read_module(path: Path, _changed: int) -> tuple[str, tuple[str, ...]]:
    """The digest of a module's tree, and what it may import from the package: modules, or names in them."""
    source = path.read_bytes()
    kept, key = _kept_path(path), hashlib.sha256(_own_source() + source).hexdigest()
    with suppress(OSError, ValueError, TypeError, KeyError):
        stored = json.loads(kept.read_bytes())
        if stored["source"] == key and stored["proof"] == digest([key, stored["digest"], stored["imports"]]):
            return stored["digest"], tuple(stored["imports"])
    words: list[str] = []
    _spell(ast.parse(source), words, imports := set())
    tree = "\n".join(words).encode("utf-8", "surrogatepass")
    found, imported = hashlib.sha256(tree).hexdigest()[:LENGTH], tuple(sorted(imports))
    if not sys.dont_write_bytecode:
        proof = digest([key, found, list(imported)])
        _keep(kept, {"source": key, "digest": found, "imports": imported, "proof": proof})
    return found, imported


@cache
def _own_source() -> bytes:
    """This module: what was kept by another one of its kind is not believed."""
    return Path(__file__).read_bytes()


def _kept_path(path: Path) -> Path:
    """Beside the module's compiled file, whose name has Python's version in it."""
    return Path(importlib.util.cache_from_source(str(path), optimization="")).with_suffix(_KEPT_SUFFIX)


def _keep(path: Path, value: Mapping[str, Any]) -> None:
    """Write `value` if that can be: nothing depends on it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(value), encoding="utf-8")
        temporary.replace(path)


def _spell(node: ast.AST, words: list[str], imports: set[str]) -> None:
    """Write the tree of `node` to `words`, so that other trees give other words; and what it imports of the package."""
    kind = type(node)
    words.append(kind.__name__)
    if kind in (ast.Import, ast.ImportFrom):
        imports.update(name for name in _imported(node) if name == PACKAGE or name.startswith(f"{PACKAGE}."))
    for field in _telling_fields(kind):
        value = getattr(node, field)
        if isinstance(value, ast.AST):
            _spell(value, words, imports)
        elif isinstance(value, list):
            words.append("[")
            for inner in value:
                if not isinstance(inner, ast.AST):
                    words.append(repr(inner))
                elif not _does_nothing(inner):
                    _spell(inner, words, imports)
            words.append("]")
        else:
            words.append(repr(value))


@cache
def _telling_fields(kind: type[ast.AST]) -> tuple[str, ...]:
    return tuple(field for field in kind._fields if field not in _SAYS_NOTHING)


def _does_nothing(node: ast.AST) -> bool:
    """Whether it is a docstring, another bare string or `pass`."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    return isinstance(node, ast.Pass)


def _imported(node: Any) -> list[str]:
    """What an import names: modules, and what may be modules or names in one."""
    names = [alias.name for alias in node.names]
    if isinstance(node, ast.Import):
        return names
    return [] if node.level or not node.module else [node.module, *(f"{node.module}.{name}" for name in names)]


@cache
def _is_module(name: str) -> bool:
    """Whether a name of the package is a module of it."""
    return _source_of(name) is not None


@cache
def _module_path(name: str) -> Path:
    """The source file of a module; one that is not the package's (a stage's own) must be importable."""
    if path := _source_of(name):
        return path
    spec = None if name.startswith(f"{PACKAGE}.") else importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"no source file for module {name}")
    return Path(spec.origin)


def _source_of(name: str) -> Path | None:
    """The file of a module of the package; looked for on the disk, for `find_spec` imports what is above it."""
    package, *inner = name.split(".")
    place = _ROOT.joinpath(*inner)
    found = (path for path in (place / "__init__.py", place.with_suffix(".py")) if path.is_file())
    return next(found, None) if package == PACKAGE else None


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings, and lists of them, as one, with dotted keys: `model.num_layers`, `sources.0.name`."""
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        if isinstance(inner, list) and inner and all(isinstance(one, Mapping) for one in inner):
            inner = {str(number): one for number, one in enumerate(inner)}
        if isinstance(inner, Mapping):
            flat.update(flatten(inner, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = inner
    return flat
