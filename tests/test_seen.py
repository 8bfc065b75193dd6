"""Evaluation items are found in what a training really had in its steps, and nowhere else."""

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SealCorpus, english
from history_parts import seal_training

from minimind.artifact import Artifact, Inputs, Store, Summary, open_artifact
from minimind.config import Config
from minimind.data.rules.contamination import find_items
from minimind.data.rules.evaluation_index import index_items
from minimind.data.rules.evaluation_sets import Item
from minimind.data.rules.texts import Texts
from minimind.data.shards import read_rows
from minimind.errors import MissingError
from minimind.evaluate import seen
from minimind.evaluate.contamination import Overlap, overlaps, overlaps_of_each, trainings_behind, worst
from minimind.evaluate.seen import seen_sets
from minimind.model.config import ModelConfig
from minimind.stage import Stage, build
from minimind.tokens.tokenizer import Tokenizer
from minimind.tokens.tokenizing import TOKENS, TokensConfig
from minimind.train.history import training_of
from minimind.train.stage_configs import DpoConfig, PretrainConfig, SftConfig

MODEL = ModelConfig(vocab_size=600, hidden_size=32, num_layers=1, num_heads=2, max_positions=1024)
NOTHING = Overlap(0.0, False, "")


def made_item(number: int) -> Item:
    """A question of words that no other has."""
    rng = random.Random(number)
    words = ["".join(rng.choice(("ba", "ke", "lo", "mi", "ru", "te", "sa", "no")) for _ in range(4)) for _ in range(24)]
    choices = tuple(" ".join(words[at : at + 3]) for at in range(12, 24, 3))
    return Item(f"item {number}", "made.jsonl", f"Which of {' '.join(words[:12])}?", choices, choices[1], True)


ITEMS = [made_item(number) for number in range(60)]
"""Two to a document of the base model's corpus."""
CHAT, REJECTED, CLEAN = (made_item(number) for number in range(100, 103))
CANAL = Item("canal", "made.jsonl", "京杭大运河最早开凿的一段是", ("邗沟", "通惠河", "永济渠", "江南河"), "邗沟", True)


def lettered(item: Item, letters: str = "ABCD") -> str:
    return "\n".join([item.question, *(f"{at}. {choice}" for at, choice in zip(letters, item.choices, strict=True))])


def texts() -> list[str]:
    """Two items to a document; the second with words changed and other letters before its choices."""
    made = []
    for number in range(0, len(ITEMS), 2):
        rng, second = random.Random(-number), ITEMS[number + 1]
        edited = replace(second, question=second.question.replace("Which of", "Tell me:"))
        made.append(f"{english(rng)}\n{lettered(ITEMS[number])}\n{english(rng)}\n{lettered(edited, '甲乙丙丁')}")
    return made


def talk(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


@pytest.fixture(scope="module")
def made(store: Store, seal_corpus: SealCorpus, tokenizer_artifact: Artifact) -> dict[str, Artifact]:
    """Half an epoch of the documents, a chat model made of it, and a preference model of that."""
    rng = random.Random(0)
    talks = [talk(english(rng), english(rng)) for _ in range(12)]
    escaped = json.dumps({"q": CANAL.question, "options": CANAL.choices})
    chats = [*talks, talk(CHAT.question, f"It is {CHAT.answer}."), talk("Write it as JSON", escaped)]
    pairs: list[dict[str, Any]] = [{"chosen": one, "rejected": [one[0], talk("", "No.")[1]]} for one in talks]
    pairs.append({"chosen": talk("Ask me", "No."), "rejected": talk("Ask me", lettered(REJECTED))})
    corpora = {
        "pretrain": seal_corpus("pretrain", [{"text": text} for text in texts()], validation_fraction=0.2),
        "chat": seal_corpus("chat", [{"conversations": turns} for turns in chats], validation_fraction=0),
        "preference": seal_corpus("preference", pairs, validation_fraction=0),
    }
    tokens = {
        kind: build(TOKENS, TokensConfig(rows=kind), {"corpus": one, "tokenizer": tokenizer_artifact}, store=store)[0]
        for kind, one in corpora.items()
    }
    half = PretrainConfig(epochs=0.5, length=1024, batch_tokens=2048, model=MODEL)
    base = seal_training(store, "pretrain", half, {"tokens": tokens["pretrain"]})
    inputs = {"tokens": tokens["chat"], "model": base}
    sft = seal_training(store, "sft", SftConfig(epochs=1, length=512, batch_tokens=1024), inputs)
    inputs = {"tokens": tokens["preference"], "model": sft}
    dpo = seal_training(store, "dpo", DpoConfig(epochs=1, length=512, batch_tokens=2048), inputs)
    return {"corpus": corpora["pretrain"], "pretrain": base, "sft": sft, "dpo": dpo}


def in_batches(model: Artifact, tokenizer: Tokenizer) -> str:
    """All the text that a training had, from the batches themselves."""
    training = training_of(model)
    batches = [training.open().batch(step) for step in range(training.steps)]
    return "\n".join(tokenizer.decode(row) for batch in batches for row in batch.tokens_BT)


def in_split(made: dict[str, Artifact], split: str) -> list[bool]:
    """Which items stand in a row of a split."""
    rows = [row["text"] for row in read_rows(made["corpus"].dir / split)]
    return [any(item.choices[0] in text for text in rows) for item in ITEMS]


def test_items_of_the_documents_that_were_in_a_step_are_found_and_no_others(
    made: dict[str, Artifact], tokenizer: Tokenizer
) -> None:
    """Against decoding every batch: half an epoch had half of the rows, and both items of each."""
    text = in_batches(made["pretrain"], tokenizer)
    had = [item.choices[0] in text for item in ITEMS]
    assert 0 < sum(had) < sum(in_split(made, "train"))
    assert had[0::2] == had[1::2]
    found = overlaps([*ITEMS, CLEAN], [training_of(made["pretrain"])])
    assert [one.leaked for one in found] == [*had, False]
    assert all(one.share > 0.8 if one.leaked else one == NOTHING for one in found)


def test_items_of_the_validation_split_are_clean(made: dict[str, Artifact]) -> None:
    """They are there to be asked; a whole epoch of training does not have them either."""
    training = training_of(made["pretrain"])
    whole = replace(training, steps=10 * training.steps)
    train, val = in_split(made, "train"), in_split(made, "val")
    assert any(val) and not any(np.logical_and(train, val))
    assert [one.leaked for one in overlaps(ITEMS, [whole])] == train


def test_the_place_of_an_item_is_named(made: dict[str, Artifact]) -> None:
    """Who doubts it can look there."""
    training = training_of(made["pretrain"])
    lines = {row["text"]: (row["source"], row["line"]) for row in read_rows(made["corpus"].dir / "train")}
    (only,) = seen_sets([training])
    found = iter(one for one in overlaps(ITEMS, [training]) if one.leaked)
    numbers = {text: number for some in only.texts() for number, text in zip(*some, strict=True)}
    for item in ITEMS:
        if text := next((text for text in numbers if item.choices[0] in text), None):
            source, line = lines[text]
            named = f"pretrain tokens-pretrain document {numbers[text]}, source {source}, line {line}"
            assert next(found).where == named
    assert not list(found)


def test_an_item_that_shares_some_words_is_no_leak(made: dict[str, Artifact]) -> None:
    """The share says how much; what is below the half is chance, or a subject in common."""
    had = overlaps(ITEMS, [training_of(made["pretrain"])])
    item = next(item for item, one in zip(ITEMS, had, strict=True) if one.leaked)
    words = [*item.question.split()[:8], *CLEAN.question.split()[8:]]
    related = replace(CLEAN, question=" ".join(words))
    (found,) = overlaps([related], [training_of(made["pretrain"])])
    assert 0 < found.share < 0.5 and not found.leaked and found.where


def test_templates_hide_no_item_and_cost_little() -> None:
    """Questions of one form stand in thousands of chats; without their common pieces the same items are leaks."""
    asked = "What is the signature of the function {}?"
    names = [f"{made_item(number).choices[0].replace(' ', '.')}" for number in range(200, 280)]
    generic = "Which of these is a module of the standard library?"
    always = "Is this really one of the many answers that are always and everywhere the same?"
    everywhere = Item("all", "made.jsonl", always, ("Yes", "No"), "", True)
    items = [
        *(
            Item(name, "made.jsonl", asked.format(name), (f"{name}(one)", f"{name}(two)"), "", True)
            for name in names[:9]
        ),
        *(replace(made_item(number), question=generic) for number in range(300, 309)),
        everywhere,
    ]
    chats = [f"{asked.format(name)} That is {name}(three). {generic} {always}" for name in names[20:]]
    planted = [
        lettered(items[0], "AB"),
        f"{items[1].question} {items[1].choices[1]}",
        items[2].question.replace("the function", "a class").upper() + items[2].choices[0] + items[2].choices[1],
        lettered(items[9]),
        f"{generic} It is {items[10].answer}.",
    ]
    texts, index = Texts([*chats, *planted]), index_items(items)
    every, rarer = (list(find_items(texts, index, 0.7, most=most)) for most in (None, 8))
    leaks = [{(text, item) for text, item, found in told if found.is_leak(0.7)} for told in (every, rarer)]
    wanted = {(len(chats) + number, item) for number, item in enumerate((0, 1, 2, 9, 10))}
    assert wanted <= leaks[1] <= leaks[0]
    assert {item for _, item in leaks[0]} == {item for _, item in leaks[1]} == {0, 1, 2, 9, 10, len(items) - 1}
    assert len(rarer) < len(every) / 20


def test_a_model_saw_what_the_models_it_was_made_of_saw(made: dict[str, Artifact]) -> None:
    """A chat model was trained on the base model's documents too, a preference model on both sides of its pairs."""
    behind = {name: trainings_behind(made[name])[0] for name in ("pretrain", "sft", "dpo")}
    assert [one.label for one in behind["dpo"]] == ["pretrain", "sft", "dpo"]
    items = [*ITEMS, CHAT, CANAL, REJECTED, CLEAN]
    leaks = {name: [one.leaked for one in overlaps(items, trainings)] for name, trainings in behind.items()}
    of_base = leaks["pretrain"][: len(ITEMS)]
    assert any(of_base) and leaks["sft"][: len(ITEMS)] == leaks["dpo"][: len(ITEMS)] == of_base
    assert {name: told[len(ITEMS) :] for name, told in leaks.items()} == {
        "pretrain": [False, False, False, False],
        "sft": [True, True, False, False],
        "dpo": [True, True, True, False],
    }


def test_trainings_in_common_are_looked_through_once(
    made: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An evaluation asks for all models of a pipeline; what each saw is the worst of its trainings."""
    opened: list[str] = []
    masks = seen._masks
    monkeypatch.setattr(seen, "_masks", lambda one, slides: opened.append(one.label) or masks(one, slides))
    trainings, _ = trainings_behind(made["dpo"])
    items = [*ITEMS, CHAT, REJECTED]
    each = overlaps_of_each(items, [*trainings, *trainings])
    assert opened == ["pretrain", "sft", "dpo"]
    assert list(each) == [one.fingerprint for one in trainings]
    assert worst(list(each.values())) == overlaps(items, trainings)
    assert overlaps(items, []) == [NOTHING] * len(items)
    assert overlaps([], trainings) == []


def test_a_small_batch_of_documents_finds_the_same(made: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch) -> None:
    """How many are decoded together is a question of memory alone."""
    trainings, _ = trainings_behind(made["dpo"])
    together = overlaps(ITEMS, trainings)
    monkeypatch.setattr(seen, "BATCH_TOKENS", 700)
    assert overlaps(ITEMS, trainings) == together


def test_where_the_code_that_chooses_rows_has_changed_all_documents_count(made: dict[str, Artifact]) -> None:
    """Which ones it had cannot be told any more, and an item must not be called clean for that."""
    changed = replace(training_of(made["pretrain"]), changed_code=("minimind.tokens.shuffle",))
    assert [one.leaked for one in overlaps(ITEMS, [changed])] == in_split(made, "train")


class Published(Config):
    """What a toy of the last stage is told."""

    model: str = "sft"


def publish(config: Published, inputs: Inputs, out_dir: Path) -> Summary:
    (out_dir / "model.safetensors").touch()
    return Summary(figures={"model": config.model})


def test_of_a_published_model_the_chosen_one_counts(made: dict[str, Artifact], store: Store) -> None:
    """The report card read all models of the pipeline, but only one of them is published."""
    names = ("pretrain", "sft", "dpo")
    stage = Stage("publish", publish, inputs=names)
    card, _ = build(stage, Published(), {name: made[name] for name in names}, store=store)
    trainings, reasons = trainings_behind(card)
    assert ([one.label for one in trainings], reasons) == (["pretrain", "sft"], [])


def test_a_model_that_was_trained_elsewhere_is_told(made: dict[str, Artifact], store: Store) -> None:
    """Nobody here knows what an imported model saw, nor one whose training kept no count of its steps."""
    brought, _ = build(Stage("import", publish), Published(), {}, store=store)
    inputs = {"tokens": training_of(made["sft"]).tokens, "model": brought}
    config = SftConfig(epochs=1, length=512, batch_tokens=1024)
    trainings, reasons = trainings_behind(seal_training(store, "sft", config, inputs))
    assert [one.label for one in trainings] == ["sft"]
    assert reasons == [f"import {brought.fingerprint}: was not trained here, so nobody knows what it saw"]
    trainings, reasons = trainings_behind(seal_training(store, "sft", config, inputs, steps=0))
    assert not trainings and "how many steps" in reasons[1]


def test_trainings_that_are_gone_are_told(made: dict[str, Artifact], tmp_path: Path) -> None:
    """What could not be looked through is not clean, so the report must say it."""
    home, kept = Store(tmp_path), dict[str, Artifact]()
    for one in trainings_behind(made["dpo"])[0]:
        for artifact in (made[one.label], one.tokens):
            shutil.copytree(artifact.dir, home.path(artifact.kind, artifact.fingerprint))
        kept[one.label] = open_artifact(home.path(one.label, one.fingerprint))
        tokenizer = made["corpus"].dir.parents[1] / "tokenizer" / one.tokens.manifest.parents["tokenizer"]
        shutil.copytree(tokenizer, home.path("tokenizer", tokenizer.name), dirs_exist_ok=True)
    trainings, reasons = trainings_behind(kept["dpo"])
    assert ([one.label for one in trainings], reasons) == (["pretrain", "sft", "dpo"], [])
    leaked = [one for one in overlaps(ITEMS, trainings) if one.leaked]
    assert leaked and not any("line" in one.where for one in leaked)  # its corpus is not there
    (trainings[0].tokens.dir / "train" / "tokens.bin").unlink()
    shutil.rmtree(trainings[1].tokens.dir)
    left, reasons = trainings_behind(kept["dpo"])
    assert [one.label for one in left] == ["dpo"]
    assert [reason.partition(": ")[0] for reason in reasons] == [
        f"{n} {kept[n].fingerprint}" for n in ("pretrain", "sft")
    ]
    assert "tokens.bin" in reasons[0] and "`tokens` is not in the store" in reasons[1]
    shutil.rmtree(kept["pretrain"].dir)
    _, reasons = trainings_behind(kept["dpo"])
    assert f"model {kept['pretrain'].fingerprint}" in reasons[0] and "the store has it no more" in reasons[0]
    with pytest.raises(MissingError, match="not in the store"):
        shutil.rmtree(home.root / "tokenizer")
        overlaps(ITEMS, left)
