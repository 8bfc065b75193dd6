"""Identity: what changes it, what does not, and how a miss is explained."""

import os
import subprocess
import sys

import pytest

from minimind import fingerprint
from minimind.fingerprint import Parts, code_digests, digest, explain


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module of a package named like ours, which tests may rewrite."""

    def write(source: str) -> dict[str, str]:
        path = tmp_path / "module.py"
        path.write_text(source)
        monkeypatch.setattr(fingerprint, "_module_path", lambda name: path)
        fingerprint._read_module.cache_clear()
        return code_digests(["minimind.module"])

    return write


def test_comments_docstrings_and_layout_are_no_code(module):
    plain = module("def f(x):\n    return x + 1\n")
    assert plain == module('"""About."""\n\ndef f(x):  # adds\n    """One more."""\n\n    return (x +\n        1)\n')


def test_a_changed_line_is_another_code(module):
    assert module("def f(x):\n    return x + 1\n") != module("def f(x):\n    return x + 2\n")


def test_a_docstring_in_place_of_nothing_is_no_code(module):
    assert module("class A:\n    pass\n") == module('class A:\n    """An A."""\n')
    assert module("class A:\n    x: int = 1\n") == module('class A:\n    x: int = 1\n    """Why 1."""\n')


SNIPPETS = """
f(x); f("x"); f("x\\n"); f(b"x"); f(1); f(True); f(1.0); f(None); f(...); f([1, 2]); f([1], 2); f([[1], 2]); f(*x)
x = y; x == y; x is y; x: y; x: y = z; x: z = y; x = y = z; del x; assert x; assert x, y; global x; return x; yield x
if x: y; while x: y; for x in y: z; async for x in y: z; with x: y; with x as z: y; def x(): y; async def x(): y
def f(x): y; def f(*x): y; def f(**x): y; def f(x=1): y; def f(*, x): y; def f(x, /): y; def f(x) -> z: y; def f(x): z
lambda: x; lambda x: x; class x: y; class x(z): y; import x; import x as y; from x import y; from . import y; await x
x if y else z; y if x else z; [x for x in y]; {x for x in y}; (x for x in y); {x: x for x in y}; {x: y}; {x, y}
f"{x}"; f"{x!r}"; f"{x:y}"; f"{{x}}"; "{x}"; x.y; x[y]; x[y:z]; x[y, z]; -x; not x; x and y; x or y; x @ y; x @= y
"""


def test_code_that_differs_in_anything_but_words_for_people_is_told_apart(module):
    """A change that is not seen means a stage that is not run again: the worst that reuse can do."""
    snippets = {snippet.strip() for line in SNIPPETS.splitlines() for snippet in line.split(";") if snippet.strip()}
    digests = {module(f"async def g():\n    {snippet}\n")["minimind.module"] for snippet in snippets}
    assert len(digests) == len(snippets) > 70


@pytest.mark.parametrize("writes", [True, False])
def test_what_is_kept_of_a_module_is_never_old(module, tmp_path, monkeypatch, writes):
    """Not where an edit leaves the file's size and time as they were; and where Python keeps nothing, nothing is."""
    monkeypatch.setattr(sys, "dont_write_bytecode", not writes)
    monkeypatch.setattr(sys, "pycache_prefix", None)
    path = tmp_path / "module.py"
    first, times = module("x = 1\n"), path.stat()
    kept = list(tmp_path.rglob("*.code.json"))
    assert len(kept) == writes and module("x = 1\n") == first
    path.write_text("x = 2\n")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    fingerprint._read_module.cache_clear()
    second = code_digests(["minimind.module"])
    assert second != first
    for damage in ("", "{", "[]", "{}", '{"source": 1}'):
        for file in kept:
            file.write_text(damage)
        assert module("x = 2\n") == second


def test_to_name_code_is_not_to_run_it():
    """Modules that a function imports lazily, to start quickly, must stay so."""
    asked = "import sys; from minimind.fingerprint import code_digests as d; found = d(['minimind.data.cleaning'])"
    shown = "print(len(found), 'minimind.data.cleaning' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", f"{asked}; {shown}"], capture_output=True, text=True, check=True)
    count, imported = done.stdout.split()
    assert int(count) > 20 and imported == "False"


def test_a_stage_of_somebody_else_has_code_too():
    """A stage's function may live outside of the package; what it imports from it counts."""
    assert {__name__, "minimind.fingerprint", "minimind.config"} <= set(code_digests([__name__]))
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        code_digests(["minimind.no_such_module"])


def test_code_counts_as_far_as_imports_reach_lazy_ones_included():
    reached = code_digests(["minimind.stage"])
    assert {"minimind.stage", "minimind.artifact", "minimind.fingerprint", "minimind.errors"} <= set(reached)
    assert not any(name.startswith(("minimind.train", "minimind.cli")) for name in reached)


def test_the_order_of_keys_is_no_identity_and_every_value_is():
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert len({digest(v) for v in (1, "1", 1.5, None, [1], {"a": 1}, True)}) == 7


def test_a_miss_is_explained_down_to_the_key_file_and_module():
    """`minimind plan` must say which of the three changed, not only that something did."""
    old = Parts(
        stage="sft",
        format_version=1,
        config={"lr": 0.1, "model": {"layers": 4}},
        inputs={"tokens": "aa"},
        sources={"chat.jsonl": "01"},
        code={"minimind.train.loop": "ff"},
    )
    new = old.replace(
        config={"lr": 0.2, "model": {"layers": 8}},
        inputs={"tokens": "bb"},
        sources={"chat.jsonl": "02"},
        code={"minimind.train.loop": "fe"},
    )
    assert [str(change) for change in explain(old, new)] == [
        "config lr: 0.1 → 0.2",
        "config model.layers: 4 → 8",
        "input tokens: aa → bb",
        "source chat.jsonl: 01 → 02",
        "code minimind.train.loop: ff → fe",
    ]
    assert old.fingerprint() != new.fingerprint()
    assert explain(old, old) == []
