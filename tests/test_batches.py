"""Batches: every label is right and comes once, and a step alone decides what is in it."""

import hashlib
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from training_parts import TINY

from minimind.artifact import Artifact
from minimind.data.documents import RowKind
from minimind.errors import ConfigError, DataError
from minimind.model.transformer import Transformer
from minimind.tokens.batches import IGNORE, Batch, PairBatches, PiecesOfStep, RowBatches
from minimind.tokens.layout import pack_sides
from minimind.tokens.token_set import TokenSet, TokensInfo
from minimind.tokens.vocabulary import END_OF_TEXT
from minimind.train.loop import micro_batches
from minimind.train.objectives import Tensors, pair_log_probs, take_pairs, take_rows
from minimind.train.parallel import Ranks


def make_set(kind: RowKind, documents: list[list[int]], trained: list[list[int]] | None = None) -> TokenSet:
    """A token set in memory."""
    flat = [token for document in documents for token in document]
    mask = None if trained is None else np.array([*(bit for bits in trained for bit in bits), 0], np.uint8)
    info = TokensInfo(
        rows=kind,
        dtype="<u2",
        vocab_size=1000,
        documents=len(documents),
        tokens=len(flat),
        trained_tokens=len(flat) if mask is None else int(mask.sum()),
        bytes=0,
        tokenizer="",
    )
    return TokenSet(
        kind=kind,
        tokens=np.array([*flat, END_OF_TEXT], np.uint16),
        offsets=np.cumsum([0, *map(len, documents)]),
        rows=np.arange(len(documents)),
        bytes=np.zeros(len(documents), np.int64),
        trained=mask,
        info=info,
    )


def assert_same(one: Batch, other: Batch) -> None:
    for name in ("tokens_BT", "labels_BT", "documents_BT", "positions_BT", "items_B"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_a_packed_row_reads_as_written_by_hand() -> None:
    """The layout on which model, loss and evaluation agree, spelt out."""
    token_set = make_set("pretrain", [[0, 11, 12, 13], [0, 21], [0, 31, 32, 33, 34]])
    batch = RowBatches(token_set, row_length=7, batch_rows=2, seed=0).gather(np.array([0, 1]))
    assert batch.tokens_BT.tolist() == [[0, 21, 0, 31, 32, 33, 34], [0, 11, 12, 13, 0, 0, 0]]
    assert batch.labels_BT.tolist() == [[21, 0, 31, 32, 33, 34, 0], [11, 12, 13, 0, IGNORE, IGNORE, IGNORE]]
    assert batch.documents_BT.tolist() == [[0, 0, 1, 1, 1, 1, 1], [0, 0, 0, 0, -1, -1, -1]]
    assert batch.positions_BT.tolist() == [[0, 1, 0, 1, 2, 3, 4], [0, 1, 2, 3, 0, 0, 0]]
    arrays = (batch.tokens_BT, batch.labels_BT, batch.documents_BT, batch.positions_BT)
    assert [array.dtype for array in arrays] == 4 * [np.int32]


@pytest.mark.parametrize("row_length", [5, 64, 1000])
def test_every_pretraining_token_but_the_first_is_a_label_once(
    token_artifacts: dict[RowKind, Artifact], row_length: int
) -> None:
    """A token that is a label twice or never bends the loss, and no loss curve shows it."""
    token_set = TokenSet.open(token_artifacts["pretrain"].dir / "train")
    batches = RowBatches(token_set, row_length=row_length, batch_rows=4, seed=0)
    whole = batches.gather(np.arange(batches.num_rows))
    seen = Counter(whole.labels_BT[whole.labels_BT != IGNORE].tolist())
    assert seen == Counter(token_set.tokens[1:].tolist())
    assert (whole.labels_BT != IGNORE).sum() == token_set.info.trained_tokens
    inside = whole.documents_BT >= 0
    assert Counter(whole.tokens_BT[inside].tolist()) == Counter(token_set.tokens[:-1].tolist())


def test_pieces_of_a_long_document_hand_over_without_a_gap() -> None:
    """Each id occurs once here, so every id's label must be the one after it, across the cuts too."""
    token_set = make_set("pretrain", [[0, *range(1, 23)]])
    batches = RowBatches(token_set, row_length=5, batch_rows=1, seed=0)
    whole = batches.gather(np.arange(batches.num_rows))
    inside = whole.documents_BT >= 0
    pairs = dict(zip(whole.tokens_BT[inside].tolist(), whole.labels_BT[inside].tolist(), strict=True))
    assert pairs == {**{token: token + 1 for token in range(22)}, 22: 0}
    assert whole.positions_BT.max() == 4


def test_chat_labels_are_the_masked_next_tokens_of_the_same_document() -> None:
    """The last id of a chat must not learn the first of a neighbour, not even where a mask says so."""
    token_set = make_set("chat", [[1, 5, 6, 2, 7], [1, 8, 2]], [[0, 0, 1, 1, 0], [1, 1, 1]])
    batch = RowBatches(token_set, row_length=9, batch_rows=1, seed=0).batch(0)
    ignore = IGNORE
    assert batch.labels_BT.tolist() == [[ignore, 6, 2, ignore, ignore, 8, 2, ignore, ignore]]


def test_chat_labels_of_an_epoch_add_up_to_the_ledger(token_artifacts: dict[RowKind, Artifact]) -> None:
    """`trained_tokens` is what a training divides by and reports."""
    token_set = TokenSet.open(token_artifacts["chat"].dir / "train")
    batches = RowBatches(token_set, row_length=400, batch_rows=3, seed=0)
    whole = batches.gather(np.arange(batches.num_rows))
    assert (whole.labels_BT != IGNORE).sum() == token_set.info.trained_tokens > 0


def test_a_batch_depends_on_seed_and_step_alone(token_artifacts: dict[RowKind, Artifact]) -> None:
    """A resumed training asks for step 7 first; one that went through steps 0 to 6 must see the same."""
    token_set = TokenSet.open(token_artifacts["pretrain"].dir / "train")

    def batches(seed: int) -> RowBatches:
        return RowBatches(token_set, row_length=64, batch_rows=5, seed=seed)

    walked = batches(3)
    for step in range(walked.steps_per_epoch * 2):
        assert_same(walked.batch(step), batches(3).batch(step))
    assert_same(walked.batch(1), batches(3).batch(1))  # back again, over an epoch's border
    assert batches(3).batch(0).items_B.tolist() != batches(4).batch(0).items_B.tolist()


def test_epochs_show_every_row_once_in_another_order(token_artifacts: dict[RowKind, Artifact]) -> None:
    """Also across the batch that holds the end of one epoch and the start of the next."""
    token_set = TokenSet.open(token_artifacts["pretrain"].dir / "train")
    batches = RowBatches(token_set, row_length=64, batch_rows=7, seed=0)
    assert batches.num_rows % 7, "the case needs a batch that wraps"
    steps = batches.steps_per_epoch * 2
    seen = np.concatenate([batches.batch(step).items_B for step in range(steps)])
    assert all(len(batches.batch(step)) == 7 for step in range(steps))
    first, second = seen[: batches.num_rows], seen[batches.num_rows : 2 * batches.num_rows]
    assert sorted(first) == sorted(second) == list(range(batches.num_rows))
    assert first.tolist() != second.tolist()


def test_a_batch_larger_than_the_set_goes_round() -> None:
    """A tiny set with a big batch is a user's first try; it works, each row as often as it must."""
    token_set = make_set("pretrain", [[0, 1, 2], [0, 3, 4], [0, 5, 6]])
    batches = RowBatches(token_set, row_length=3, batch_rows=8, seed=0)
    assert sorted(Counter(batches.batch(0).items_B.tolist()).values()) == [2, 3, 3]
    assert batches.steps_per_epoch == 1


def test_rows_cuts_a_batch_into_micro_batches(token_artifacts: dict[RowKind, Artifact]) -> None:
    """Gradient accumulation and ranks take their share of the same batch."""
    token_set = TokenSet.open(token_artifacts["pretrain"].dir / "train")
    batch = RowBatches(token_set, row_length=64, batch_rows=6, seed=0).batch(0)
    parts = [batch.rows(start, start + 2) for start in (0, 2, 4)]
    assert [len(part) for part in parts] == [2, 2, 2]
    np.testing.assert_array_equal(np.concatenate([part.labels_BT for part in parts]), batch.labels_BT)
    np.testing.assert_array_equal(np.concatenate([part.items_B for part in parts]), batch.items_B)


def test_pairs_stand_in_the_same_order_on_both_halves(token_artifacts: dict[RowKind, Artifact]) -> None:
    """DPO subtracts row i from row B/2 + i; a pair that is torn teaches noise."""
    token_set = TokenSet.open(token_artifacts["preference"].dir / "train")
    batches = PairBatches(token_set, batch_pairs=4, max_length=400, seed=0)
    batch = batches.batch(2)
    assert len(batch) == 8
    assert batch.items_B[:4].tolist() == batch.items_B[4:].tolist()
    for row, document in enumerate([*(2 * batch.items_B[:4]), *(2 * batch.items_B[4:] + 1)]):
        ids = token_set.document(document)
        assert batch.tokens_BT[row, : len(ids)].tolist() == ids.tolist()
        assert (batch.documents_BT[row, len(ids) :] == -1).all()
        assert (batch.labels_BT[row, len(ids) - 1 :] == IGNORE).all()
    assert (batch.documents_BT >= 0).any(axis=0).all(), "no wider than the longest"


def test_pairs_of_an_epoch_are_all_seen_and_all_labelled(token_artifacts: dict[RowKind, Artifact]) -> None:
    """The pairs' ledger, as for chats."""
    token_set = TokenSet.open(token_artifacts["preference"].dir / "train")
    batches = PairBatches(token_set, batch_pairs=5, max_length=400, seed=1)
    whole = batches.gather(np.arange(batches.num_pairs))
    assert (whole.labels_BT != IGNORE).sum() == token_set.info.trained_tokens
    seen = np.concatenate([batches.batch(step).items_B[:5] for step in range(batches.steps_per_epoch)])
    assert set(seen.tolist()) == set(range(batches.num_pairs))


def test_what_does_not_fit_is_an_error_that_names_the_setting() -> None:
    """Cutting an answer would teach to stop in the middle, so the user has to choose."""
    chat = make_set("chat", [[1] * 9, [1] * 4], [[0] * 9, [0] * 4])
    with pytest.raises(ConfigError, match=r"`length` = 8 .* 9 tokens"):
        RowBatches(chat, row_length=8, batch_rows=1, seed=0)
    pairs = make_set("preference", [[1] * 9, [1] * 4], [[0] * 9, [0] * 4])
    with pytest.raises(ConfigError, match=r"`dpo\.length` = 8 .* 9 tokens"):
        PairBatches(pairs, batch_pairs=1, max_length=8, seed=0)
    with pytest.raises(ConfigError, match="chat rows"):
        PairBatches(chat, batch_pairs=1, max_length=9, seed=0)


def test_an_empty_split_is_an_error() -> None:
    """A validation split may be empty; asking for its batches has no answer."""
    with pytest.raises(DataError, match="no documents"):
        RowBatches(make_set("pretrain", []), row_length=8, batch_rows=1, seed=0)


def digest(batch: Batch) -> str:
    return hashlib.sha256(b"".join(getattr(batch, field.name).tobytes() for field in fields(batch))).hexdigest()


@pytest.mark.parametrize("limit", [1, 3, 100])
@pytest.mark.parametrize("world_size", range(1, 9))
def test_ranks_and_micro_batches_cut_the_same_global_batch(
    token_artifacts: dict[RowKind, Artifact], world_size: int, limit: int
) -> None:
    """Every row on exactly one rank, in order, whatever the number of ranks and the accumulation."""
    token_set = TokenSet.open(token_artifacts["pretrain"].dir / "train")
    for step in (0, 11):
        # each rank has batches of its own, as each is a process of its own
        seen = [
            micro
            for rank in range(world_size)
            for micro, _ in micro_batches(
                RowBatches(token_set, row_length=64, batch_rows=13, seed=5).batch(step),
                13,
                take_rows,
                Ranks(rank, world_size, torch.device("cpu")),
                limit,
            )
        ]
        whole = RowBatches(token_set, row_length=64, batch_rows=13, seed=5).batch(step)
        assert max(len(micro.tokens_BT) for micro in seen) <= limit
        for field in fields(Tensors):
            joined = torch.cat([getattr(micro, field.name) for micro in seen]).numpy()
            np.testing.assert_array_equal(joined, getattr(whole, field.name))


def test_a_restart_at_any_step_gives_the_same_remaining_batches(
    token_artifacts: dict[RowKind, Artifact], tmp_path: Path
) -> None:
    """By hash, over the borders of epochs, from a stored plan and from one made anew."""
    token_set = TokenSet.open(token_artifacts["pretrain"].dir / "train")
    token_set.plan(96).save(tmp_path / "plan-96")
    stored = replace(token_set, directory=tmp_path)

    def batches(of: TokenSet) -> RowBatches:
        return RowBatches(of, row_length=96, batch_rows=6, seed=1)

    steps = 2 * batches(token_set).steps_per_epoch
    wanted = [digest(batches(token_set).batch(step)) for step in range(steps)]
    assert len(set(wanted)) == steps
    for start in (0, 3, steps // 2, steps - 1):
        after_restart = batches(stored)
        assert [digest(after_restart.batch(step)) for step in range(start, steps)] == wanted[start:]


def rebuilt(token_set: TokenSet, pieces: PiecesOfStep, shape: tuple[int, int]) -> np.ndarray:
    """The ids of a batch from its pieces, the slow way; −1 is padding."""
    tokens = np.full(shape, -1)
    for row, column, document, start, length in zip(
        pieces.rows, pieces.columns, pieces.documents, pieces.starts, pieces.lengths, strict=True
    ):
        tokens[row, column : column + length] = token_set.document(document)[start : start + length]
    return tokens


def test_pieces_say_where_every_id_of_a_batch_is_from(token_artifacts: dict[RowKind, Artifact]) -> None:
    """What trace and microscope show, without reading what they do not show."""
    for kind in ("pretrain", "chat", "preference"):
        token_set = TokenSet.open(token_artifacts[kind].dir / "train")
        batches = (
            PairBatches(token_set, batch_pairs=5, max_length=400, seed=2)
            if kind == "preference"
            else RowBatches(token_set, row_length=50 if kind == "pretrain" else 400, batch_rows=5, seed=2)
        )
        for step in (0, batches.steps_per_epoch):
            batch, pieces = batches.batch(step), batches.pieces(step)
            wanted = np.where(batch.documents_BT >= 0, batch.tokens_BT, -1)
            np.testing.assert_array_equal(rebuilt(token_set, pieces, wanted.shape), wanted)
            assert (np.diff(pieces.rows) >= 0).all() and not pieces.token_sets.any()


@pytest.mark.parametrize("kind", ["pretrain", "chat", "preference"])
def test_a_large_set_is_read_run_by_run_to_the_same_batches(
    token_artifacts: dict[RowKind, Artifact], monkeypatch: pytest.MonkeyPatch, kind: RowKind
) -> None:
    """Where maps would bring more of the file into memory than is read."""
    token_set = TokenSet.open(token_artifacts[kind].dir / "train")
    batches = (
        PairBatches(token_set, batch_pairs=5, max_length=400, seed=2)
        if kind == "preference"
        else RowBatches(token_set, row_length=50 if kind == "pretrain" else 400, batch_rows=5, seed=2)
    )
    mapped = [batches.batch(step) for step in range(4)]
    monkeypatch.setattr("minimind.tokens.token_set.MAPPED_IDS", 0)
    for step, wanted in enumerate(mapped):
        assert_same(batches.batch(step), wanted)


def test_the_ids_of_whole_epochs_are_counted_without_looking(token_artifacts: dict[RowKind, Artifact]) -> None:
    """What a mixture tells of its shares."""
    token_set = TokenSet.open(token_artifacts["pretrain"].dir / "train")
    batches = RowBatches(token_set, row_length=64, batch_rows=5, seed=0)
    for start, count in ((0, 7), (3, 2 * batches.num_rows + 5), (batches.num_rows - 2, 4)):
        assert batches.tokens_in(start, count) == (batches.take(start, count).documents_BT >= 0).sum()


def test_documents_of_a_row_do_not_see_each_other(token_artifacts: dict[RowKind, Artifact]) -> None:
    """Through the real model: each document's hidden states are those it has alone."""
    torch.set_num_threads(1)
    for kind, length in (("pretrain", 128), ("chat", 0)):
        token_set = TokenSet.open(token_artifacts[kind].dir / "train")
        length = length or token_set.longest_document
        batches = RowBatches(token_set, row_length=length, batch_rows=2, seed=0)
        counts = np.diff(token_set.plan(length).row_offsets)
        batch = Tensors.of(batches.gather(np.argsort(-counts)[:2]), torch.device("cpu"))
        model = Transformer(TINY, compute_dtype=torch.float64).double()
        packed, _ = model.hidden(batch.tokens_BT, positions_BT=batch.positions_BT, documents_BT=batch.documents_BT)
        assert batch.documents_BT.max() >= 1, "the case needs a row of several documents"
        for row in range(2):
            for number in range(min(3, int(batch.documents_BT[row].max()) + 1)):
                mine = batch.documents_BT[row] == number
                alone, _ = model.hidden(batch.tokens_BT[row][mine][None])
                torch.testing.assert_close(packed[row][mine], alone[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("part", [(0, 9), (2, 5), (8, 9)])
def test_packed_sides_of_pairs_have_the_log_probabilities_of_sides_alone(
    token_artifacts: dict[RowKind, Artifact], part: tuple[int, int]
) -> None:
    """Packing is for speed; the objective must not notice."""
    token_set = TokenSet.open(token_artifacts["preference"].dir / "train")
    whole = PairBatches(token_set, batch_pairs=9, max_length=400, seed=0).batch(1)
    packed = take_pairs(whole, *part)
    assert (packed.documents_BT >= 0).any(axis=1).all(), "no row of padding alone"
    assert packed.items_B.tolist() == np.tile(whole.items_B[slice(*part)], 2).tolist()
    model = Transformer(TINY, compute_dtype=torch.float64).double()
    alone = [pair_log_probs(model, Tensors.of(take_pairs(whole, i, i + 1), torch.device("cpu"))) for i in range(*part)]
    chosen_P, rejected_P, _ = pair_log_probs(model, Tensors.of(packed, torch.device("cpu")))
    torch.testing.assert_close(chosen_P, torch.cat([one[0] for one in alone]), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(rejected_P, torch.cat([one[1] for one in alone]), rtol=1e-9, atol=1e-9)


def test_short_sides_share_a_row() -> None:
    """There are then fewer rows than sides, and still a number of the pair for each side."""
    sides = [[1] * length for length in (20, 9, 10, 19, 6, 5)]
    pairs = PairBatches(make_set("preference", sides, sides), batch_pairs=3, max_length=20, seed=0)
    batch = pairs.gather(np.array([2, 0, 1]))
    packed = take_pairs(batch, 0, 3)
    assert packed.items_B.tolist() == [2, 0, 1, 2, 0, 1]
    assert packed.tokens_BT.shape == (4, 20)
    assert [int((packed.documents_BT == side).sum()) for side in range(6)] == [6, 20, 10, 5, 9, 19]


def test_packing_sides_loses_and_doubles_nothing(token_artifacts: dict[RowKind, Artifact]) -> None:
    """Ids, labels and positions of every side, from whatever the sides were in before."""
    token_set = TokenSet.open(token_artifacts["preference"].dir / "train")
    whole = PairBatches(token_set, batch_pairs=6, max_length=400, seed=0).batch(0)
    sides = np.array([3, 1, 7, 9, 0])
    once = pack_sides(whole, sides)
    twice = pack_sides(pack_sides(whole, np.arange(12)), sides)
    for packed in (once, twice):
        assert packed.items_B.tolist() == whole.items_B[sides].tolist()
        for number, side in enumerate(sides):
            mine, its = packed.documents_BT == number, whole.documents_BT == side
            for name in ("tokens_BT", "labels_BT", "positions_BT"):
                assert getattr(packed, name)[mine].tolist() == getattr(whole, name)[its].tolist()
        assert (packed.labels_BT[packed.documents_BT < 0] == IGNORE).all()
