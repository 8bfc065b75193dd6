"""Identity of a stage's output: content ⊕ configuration ⊕ code.

A fingerprint is the digest of named parts, and the parts are kept in the manifest, so that a
miss can be explained down to the key, file or module. Code counts by its syntax tree without
comments and docstrings, for every `minimind` module that the stage can reach by imports.
Not in it: library versions, devices, paths (recorded in the manifest, but no reason to rerun).
"""

import ast
import hashlib
import importlib.util
import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from minimind.config import Config

PACKAGE = "minimind"
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

    def fingerprint(self) -> str:
        return digest(self.model_dump(mode="json"))


def digest(value: Any) -> str:
    """The shortened sha256 of a JSON-ready value; the order of keys does not matter."""
    canonical = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()[:LENGTH]


def explain(old: Parts, new: Parts) -> list[str]:
    """What differs between two sets of parts, a line each: `config lr: 0.001 → 0.0003`."""
    lines = []
    if old.format_version != new.format_version:
        lines.append(f"format {old.format_version} → {new.format_version}")
    groups = {"config": "config", "inputs": "input", "sources": "source", "code": "code"}
    for field, word in groups.items():
        before, after = flatten(getattr(old, field)), flatten(getattr(new, field))
        for key in sorted({*before, *after}):
            if before.get(key) != after.get(key):
                lines.append(f"{word} {key}: {before.get(key, '(none)')} → {after.get(key, '(none)')}")
    return lines


def code_digests(modules: Iterable[str]) -> dict[str, str]:
    """Module name → digest of its syntax tree, for `modules` and all they import from the package."""
    found: dict[str, str] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        path = _module_path(name)
        found[name], imported = _read_module(name, path, path.stat().st_mtime_ns)
        waiting.extend(imported)
    return dict(sorted(found.items()))


@cache
def _read_module(name: str, path: Path, _changed: int) -> tuple[str, tuple[str, ...]]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = list(ast.walk(tree))
    imported = tuple(sorted(_imports(nodes, name)))
    for node in nodes:
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [line for line in node.body if not _is_bare_string(line)] or [ast.Pass()]
    return digest(ast.dump(tree)), imported


def _is_bare_string(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _imports(nodes: Iterable[ast.AST], name: str) -> set[str]:
    """The package's modules that the code imports anywhere, lazy imports in functions included."""
    wanted: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            wanted.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            wanted.add(node.module)
            wanted.update(f"{node.module}.{alias.name}" for alias in node.names)
    ours = (w for w in wanted if (w == PACKAGE or w.startswith(f"{PACKAGE}.")) and w != name)
    return {module for module in ours if _is_module(module)}


@cache
def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # `package.module.function`: its parent is no package
        return False


@cache
def _module_path(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"no source file for module {name}")
    return Path(spec.origin)


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys."""
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            flat.update(flatten(inner, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = inner
    return flat
