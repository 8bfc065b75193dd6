"""Augmentation: what is put in reads as if it had been in the row, and depends on (seed, row, epoch) alone."""

import numpy as np
import pytest
from conftest import SealCorpus, conversations

from minimind.artifact import Artifact, Store
from minimind.data.shards import read_rows
from minimind.errors import ConfigError
from minimind.stage import build
from minimind.tokens.augmentation import Augmentation, AugmentedBatches
from minimind.tokens.batches import IGNORE, RowBatches
from minimind.tokens.chat import render
from minimind.tokens.layout import Batch
from minimind.tokens.token_set import TokenSet
from minimind.tokens.tokenizer import Tokenizer
from minimind.tokens.tokenizing import TOKENS, TokensConfig

PROMPTS = ("Be kind.", "你是一个助手。")
LENGTH = 420


@pytest.fixture(scope="module")
def chats(seal_corpus: SealCorpus, tokenizer_artifact: Artifact, store: Store) -> tuple[TokenSet, list[list[dict]]]:
    """A set of conversations, and the conversations."""
    corpus = seal_corpus("chat", conversations(80), validation_fraction=0)
    inputs = {"corpus": corpus, "tokenizer": tokenizer_artifact}
    artifact, _ = build(TOKENS, TokensConfig(rows="chat"), inputs, store=store)
    return TokenSet.open(artifact.dir / "train"), [row["conversations"] for row in read_rows(corpus.dir / "train")]


def augmented(
    token_set: TokenSet,
    tokenizer: Tokenizer,
    *,
    system: float = 0.0,
    think: float = 0.0,
    length: int = LENGTH,
    seed: int = 0,
) -> AugmentedBatches:
    wanted = Augmentation.of(
        tokenizer, system_prompts=PROMPTS if system else (), system_share=system, empty_think_share=think
    )
    return AugmentedBatches(token_set, wanted, row_length=length, batch_rows=4, seed=seed)


def documents(batches: AugmentedBatches, epoch: int = 0) -> dict[int, tuple[list[int], list[int]]]:
    """Document → its ids and labels in an epoch."""
    start = sum(batches._epoch(number).plan.num_rows for number in range(epoch))
    count = batches._epoch(epoch).plan.num_rows
    batch, pieces = batches.take(start, count), batches.take_pieces(start, count)
    found = {}
    own = pieces.documents >= 0
    for row, column, document in zip(pieces.rows[own], pieces.columns[own], pieces.documents[own], strict=True):
        mine = batch.documents_BT[row] == batch.documents_BT[row, column]
        found[int(document)] = (batch.tokens_BT[row][mine].tolist(), batch.labels_BT[row][mine].tolist())
        assert batch.positions_BT[row][mine].tolist() == list(range(mine.sum()))
    return found


def as_rendered(messages: list[dict], tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The ids and labels that a conversation has as a document of its own."""
    rendered = render(messages, tokenizer)
    following = zip(rendered.ids[1:], rendered.trained[1:], strict=True)
    return rendered.ids, [*(token if learnt else IGNORE for token, learnt in following), IGNORE]


def test_a_system_prompt_reads_as_if_it_had_been_in_the_row(
    chats: tuple[TokenSet, list[list[dict]]], tokenizer: Tokenizer
) -> None:
    """Ids and labels of the conversation with that system turn; those that have one keep their own."""
    token_set, rows = chats
    found = documents(augmented(token_set, tokenizer, system=1.0))
    assert len(found) == len(rows) > 70
    used = set()
    for number, messages in enumerate(rows):
        wanted = [as_rendered(messages, tokenizer)]
        if messages[0]["role"] != "system" and not any(message["tools"] for message in messages):
            wanted = [as_rendered([{"role": "system", "content": text}, *messages], tokenizer) for text in PROMPTS]
        assert found[number] in wanted
        used.add(wanted.index(found[number]) if len(wanted) > 1 else None)
    assert used == {None, 0, 1}


def test_an_empty_think_stands_before_the_last_answer_and_is_learnt(
    chats: tuple[TokenSet, list[list[dict]]], tokenizer: Tokenizer
) -> None:
    """Those with reasoning keep theirs."""
    token_set, rows = chats
    found = documents(augmented(token_set, tokenizer, think=1.0))
    gap, specials = tokenizer.encode("\n\n"), tokenizer.specials
    inserted = [specials.think, *gap, specials.think_end, *gap]
    changed = 0
    for number, messages in enumerate(rows):
        ids, labels = as_rendered(messages, tokenizer)
        if not any(message["reasoning_content"] for message in messages):
            at = len(render(messages[:-1], tokenizer).ids) if not any(m["tools"] for m in messages) else None
            at = at if at is not None else max(i for i, token in enumerate(ids) if token == specials.im_start)
            at += 1 + len(tokenizer.encode("assistant\n"))
            ids, changed = [*ids[:at], *inserted, *ids[at:]], changed + 1
            labels = [*labels[: at - 1], *inserted, *labels[at - 1 :]]
        assert found[number] == (ids, labels)
    assert changed > 20


def test_choices_are_of_seed_row_and_epoch(chats: tuple[TokenSet, list[list[dict]]], tokenizer: Tokenizer) -> None:
    """About the share that was asked for, others every epoch, the same after a restart."""
    token_set, _ = chats

    def choices(epoch: int, seed: int = 0) -> list[int]:
        return augmented(token_set, tokenizer, system=0.4, seed=seed)._epoch(epoch).prompt_D.tolist()

    assert choices(1) == choices(1)
    assert choices(0) != choices(1) != choices(2)
    assert choices(0, seed=1) != choices(0)
    eligible = np.array(augmented(token_set, tokenizer, system=1.0)._epoch(0).prompt_D) >= 0
    drawn = np.array([choices(epoch) for epoch in range(20)])
    assert not (drawn[:, ~eligible] >= 0).any()
    assert (drawn[:, eligible] >= 0).mean() == pytest.approx(0.4, abs=0.05)


def same(one: Batch, other: Batch) -> bool:
    names = ("tokens_BT", "labels_BT", "documents_BT", "positions_BT", "items_B")
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)


def test_a_batch_depends_on_the_step_alone_though_epochs_differ_in_length(
    chats: tuple[TokenSet, list[list[dict]]], tokenizer: Tokenizer
) -> None:
    """Forwards, back, and from a cold start."""
    token_set, _ = chats
    walked = augmented(token_set, tokenizer, system=0.5, think=0.5)
    steps = 3 * walked.steps_per_epoch
    seen = [walked.batch(step) for step in range(steps)]
    for step in (steps - 1, 0, steps // 2, walked.steps_per_epoch - 1, walked.steps_per_epoch):
        assert same(augmented(token_set, tokenizer, system=0.5, think=0.5).batch(step), seen[step])
        assert same(walked.batch(step), seen[step])
    first_epoch = documents(walked)
    assert sorted(first_epoch) == list(range(token_set.num_documents))
    total = walked._epoch(0).plan.num_tokens
    assert walked.tokens_in(0, walked.num_rows) == total == sum(len(ids) for ids, _ in first_epoch.values())


def test_what_would_no_longer_fit_stays_as_it_is(
    chats: tuple[TokenSet, list[list[dict]]], tokenizer: Tokenizer
) -> None:
    """Nothing is cut for the sake of a system prompt."""
    token_set, _ = chats
    tight = augmented(token_set, tokenizer, system=1.0, think=1.0, length=token_set.longest_document)
    longest = int(np.argmax(np.diff(token_set.offsets)))
    assert documents(tight)[longest][0] == token_set.document(longest).tolist()
    assert tight._epoch(0).plan.lengths.max() <= token_set.longest_document


def test_nothing_asked_for_changes_no_document(chats: tuple[TokenSet, list[list[dict]]], tokenizer: Tokenizer) -> None:
    """Row by row the batches of the set as it is."""
    token_set, _ = chats
    plain = RowBatches(token_set, row_length=LENGTH, batch_rows=4, seed=0)
    nothing = augmented(token_set, tokenizer)
    for step in range(plain.steps_per_epoch + 1):
        assert same(nothing.batch(step), plain.batch(step))


def test_augmentation_is_for_conversations(token_artifacts: dict, tokenizer: Tokenizer) -> None:
    with pytest.raises(ConfigError, match="for conversations, not pretrain"):
        augmented(TokenSet.open(token_artifacts["pretrain"].dir / "train"), tokenizer, think=0.5)
