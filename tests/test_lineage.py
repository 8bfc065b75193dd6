"""Where an artifact comes from, as a list, a picture and a difference; stages are toys in a store of their own."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import get_args

import pytest
from toy_store import Chain

from minimind.data.kinds import RowKind
from minimind.lineage import ancestors, by_fingerprint, compare, find_artifact, lineage_of
from minimind.lineage_picture import ROWS, draw_lineage

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    return Chain(tmp_path)


def test_every_node_stands_before_what_it_was_made_of(chain: Chain) -> None:
    """A reader goes down the list from the model; the tokenizer, read by three, comes once."""
    found = lineage_of(chain.model())
    order = [node.fingerprint for node in found.nodes]
    assert len(order) == len(set(order)) == 9
    assert found.root.label == "sft"
    for node in found.nodes:
        for fingerprint in node.inputs.values():
            assert order.index(fingerprint) > order.index(node.fingerprint)
    sources = {node.label: node.sources for node in found.nodes if node.sources}
    assert sources == {"ingest-pretrain": {"file <a>.jsonl": "a1"}, "ingest-chat": {"file <a>.jsonl": "c0"}}
    assert not found.missing()


def test_what_is_gone_is_named_by_what_it_was_read_as(chain: Chain) -> None:
    """Half a lineage must not look like a whole one."""
    model = chain.model()
    tokens = by_fingerprint(chain.store, model.manifest.parents["tokens"])
    assert tokens is not None
    (tokens.dir / "manifest.json").unlink()
    found = lineage_of(model)
    (gone,) = found.missing()
    assert (gone.label, gone.fingerprint, gone.path) == ("tokens", tokens.fingerprint, None)
    assert "gone" in draw_lineage(found)


def test_the_picture_has_every_artifact_once_and_flows_to_the_right(chain: Chain) -> None:
    """It is XML whatever a source is called, and no box stands left of what it was made of."""
    found = lineage_of(chain.model())
    picture = ElementTree.fromstring(draw_lineage(found))
    boxes = {}
    for group in picture.iter(f"{SVG}g"):
        name, fingerprint = (text.text for text in group.iter(f"{SVG}text"))
        rect = group.find(f"{SVG}rect")
        assert rect is not None
        boxes[fingerprint] = (int(rect.attrib["x"]), int(rect.attrib["y"]))
        assert name in {node.label for node in found.nodes}
    assert len(boxes) == len(set(boxes.values())) == len(found.nodes)
    for node in found.nodes:
        assert all(boxes[fingerprint][0] < boxes[node.fingerprint][0] for fingerprint in node.inputs.values())
    assert "file <a>.jsonl c0" in "".join(picture.itertext())
    assert get_args(RowKind) == ROWS


def test_a_difference_is_told_where_it_begins(chain: Chain) -> None:
    """Other bytes of a source change five stages; one of them is the reason. A learning rate is the model's own."""
    before, after = chain.model(), chain.model(chat_bytes="c1", lr=2e-3)
    found = compare(before, after)
    told = {difference.label: difference.lines for difference in found.differences}
    assert told == {"ingest-chat": ["source file <a>.jsonl: c0 → c1"], "sft": ["config lr: 0.001 → 0.002"]}
    assert found.figures == {"loss": (1.0, 2.0), "digits": (3, 3)}
    assert not found.libraries and not found.same
    assert compare(before, before).same


def test_models_of_two_stages_are_compared_too(chain: Chain) -> None:
    """What only one of them was made of is said, and not that one was made of the other."""
    model = chain.model()
    base = by_fingerprint(chain.store, model.manifest.parents["model"])
    assert base is not None
    told = {difference.label: difference.lines for difference in compare(base, model).differences}
    assert told.pop("the two themselves") == ["stage: pretrain → sft"]
    assert set(told) == {"ingest-chat", "shard-chat", "tokens-chat"}
    assert told["shard-chat"][0].endswith("only the second has it")


def test_artifacts_are_found_by_the_names_people_use(chain: Chain) -> None:
    model = chain.model()
    assert find_artifact("sft", chain.store).fingerprint == model.fingerprint
    assert find_artifact("corpus-chat", chain.store).label == "shard-chat"
    assert find_artifact("tokens", chain.store).label == "tokens-pretrain"
    assert set(ancestors(model)) == {node.fingerprint for node in lineage_of(model).nodes}
