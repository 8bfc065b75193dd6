"""Identity: what changes it, what does not, and how a miss is explained."""

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
    assert explain(old, new) == [
        "config lr: 0.1 → 0.2",
        "config model.layers: 4 → 8",
        "input tokens: aa → bb",
        "source chat.jsonl: 01 → 02",
        "code minimind.train.loop: ff → fe",
    ]
    assert old.fingerprint() != new.fingerprint()
    assert explain(old, old) == []
