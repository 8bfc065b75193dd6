"""Probes: figures that say at a glance whether a model in training knows anything, and that change nothing in it."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from resume_parts import COMMON, Tokens, figures_of, run_of
from torch import Tensor, nn
from training_parts import ONE_RANK, TINY, VOCABULARY

from minimind.artifact import Artifact, Store
from minimind.data.documents import RowKind
from minimind.events import EVENTS_FILE, read_events
from minimind.model.transformer import Transformer
from minimind.stage import build
from minimind.tokens.token_set import TokenSet, TokensInfo
from minimind.train import job
from minimind.train.config import TrainConfig
from minimind.train.probes import ANSWER, CHOICE, CONTEXT, Cloze, Probes, cloze_points, continuations, probe
from minimind.train.stage_configs import DpoConfig, PretrainConfig, SftConfig
from minimind.train.stages import PRETRAIN

STOP = 2
STOPS = frozenset({STOP})
NAMES = {"validation_cloze_accuracy", "validation_answer_repetition", "validation_answer_tokens"}
ANSWERED = {"validation_answer_repetition", "validation_answer_tokens", "validation_answers_ended"}
SHORT = COMMON | {"tokens": 5 * 800}
"""A look after the fourth step, and one at the end."""


class Rule(nn.Module):
    """A model that is sure of its next token, which is `successors[token]`."""

    def __init__(self, successors: Sequence[int]) -> None:
        super().__init__()
        self.output_weight = torch.eye(len(successors))
        self._successors = torch.tensor(successors)

    def hidden(self, tokens_BT: Tensor, *, documents_BT: Tensor) -> tuple[Tensor, Tensor]:
        return 20 * self.output_weight[self._successors[tokens_BT]], torch.zeros(())

    def logits(self, hidden_BD: Tensor) -> Tensor:
        return hidden_BD @ self.output_weight.T


COUNTING = [(token + 1) % VOCABULARY for token in range(VOCABULARY)]
"""What the documents below do."""


def token_set(kind: RowKind, documents: Sequence[Sequence[int]], learnt: Sequence[slice] = ()) -> TokenSet:
    """A set in memory of these documents, of which `learnt` are learnt where it is one of chats."""
    lengths = [len(document) for document in documents]
    mask = None
    if learnt:
        masks = [np.zeros(length, np.uint8) for length in lengths]
        for one, where in zip(masks, learnt, strict=True):
            one[where] = 1
        mask = np.concatenate([*masks, [0]])
    info = TokensInfo(
        rows=kind,
        dtype="<u2",
        vocab_size=VOCABULARY,
        documents=len(documents),
        tokens=sum(lengths),
        trained_tokens=sum(lengths),
        bytes=sum(lengths),
        tokenizer="",
    )
    return TokenSet(
        kind=kind,
        tokens=np.concatenate([*documents, [0]]).astype("<u2"),
        offsets=np.cumsum([0, *lengths]),
        rows=np.arange(len(documents)),
        bytes=np.array(lengths),
        trained=mask,
        info=info,
    )


def counting(starts: Sequence[int], length: int = 70) -> list[list[int]]:
    """Documents that count up, each from a place of its own."""
    return [[(start + place) % VOCABULARY for place in range(length)] for start in starts]


def texts(count: int = 20) -> TokenSet:
    return token_set("pretrain", counting(range(0, 29 * count, 29)))


def asked(held_out: TokenSet, *, length: int = 256) -> Probes:
    return Probes.of(held_out, length=length, stops=STOPS)


def test_a_model_that_knows_the_text_finds_every_continuation() -> None:
    """1 is what a perfect model has, so that the figure can be read without knowing the corpus."""
    found = probe(Rule(COUNTING), asked(texts()), ONE_RANK)
    assert found["validation_cloze_accuracy"] == 1.0
    assert found["validation_answer_repetition"] == 0.0
    assert found["validation_answer_tokens"] <= ANSWER


def test_an_untrained_model_is_at_chance() -> None:
    """Every stretch is right once and wrong three times: what a model likes by itself helps it nowhere."""
    rng = np.random.default_rng(0)
    random_texts = asked(token_set("pretrain", rng.integers(3, VOCABULARY, (40, 70)).tolist()))
    points = [cloze_points(Transformer(TINY, seed=seed), random_texts.cloze, ONE_RANK) for seed in range(4)]
    assert len(points[0]) == 32
    assert np.mean(points) == pytest.approx(0.25, abs=0.12)
    rights = [item.choices[0] for item in random_texts.cloze]
    wrongs = [wrong for item in random_texts.cloze for wrong in item.choices[1:]]
    assert all(wrongs.count(right) == 3 for right in rights)


def test_a_model_that_prefers_nothing_has_a_quarter_of_every_point() -> None:
    """Ties share the point, whatever stands first; scores that are no numbers win nothing."""
    model = Transformer(TINY)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        assert cloze_points(model, asked(texts()).cloze, ONE_RANK) == [0.25] * 20
        model.output_weight.fill_(torch.nan)
    assert cloze_points(model, asked(texts()).cloze, ONE_RANK) == [0.0] * 20


def test_the_order_of_wrong_choices_and_of_items_changes_nothing() -> None:
    model, items = Transformer(TINY, seed=3), asked(texts()).cloze
    turned = [Cloze(item.context, (item.choices[0], *item.choices[:0:-1])) for item in reversed(items)]
    points = cloze_points(model, items, ONE_RANK)
    assert 0 < sum(points) < len(points)
    assert cloze_points(model, turned, ONE_RANK) == points[::-1]


def test_a_model_that_loops_repeats_itself() -> None:
    found = probe(Rule(range(VOCABULARY)), asked(texts()), ONE_RANK)
    assert found["validation_answer_repetition"] == pytest.approx(28 / 29)
    assert found["validation_answer_tokens"] == ANSWER


def test_answers_end_where_a_chat_ends() -> None:
    """Prompts of several lengths in one batch, each gone on from its own last token; two of five never end."""
    starts = [100, 200, 300, 400, 500]
    chats = [[*range(start - length, start + 20)] for length, start in enumerate(starts, 5)]
    probes = asked(token_set("chat", chats, [slice(length, length + 20) for length in range(5, 10)]))
    begun = [ids[-1] + 1 for ids in probes.beginnings]
    assert len(set(begun)) == 4 and set(begun) < set(starts)
    answers = continuations(Rule(COUNTING), probes.beginnings, ONE_RANK)
    assert answers == [tuple(range(start, start + ANSWER)) for start in begun]
    ending = list(COUNTING)
    for start in starts[2:]:
        ending[start + start // 100] = STOP
    found = probe(Rule(ending), probes, ONE_RANK)
    assert found["validation_answers_ended"] == sum(start in starts[2:] for start in begun) / 4
    lengths = [1 + start // 100 if start in starts[2:] else ANSWER for start in begun]
    assert found["validation_answer_tokens"] == sum(lengths) / 4
    assert "validation_cloze_accuracy" not in found  # of five chats a share says nothing


def test_a_continuation_is_that_of_each_beginning_alone() -> None:
    """Padding is seen by nobody: a model of real attention goes on as without the others."""
    model, beginnings = Transformer(TINY, seed=5), [(5, 6, 7), (300, 2, 9, 4, 11, 80, 3), (8,)]
    together = continuations(model, beginnings, ONE_RANK)
    assert together == [continuations(model, [one], ONE_RANK)[0] for one in beginnings]
    with torch.no_grad():
        ids = list(beginnings[1])
        for _ in range(ANSWER):
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    assert together[1] == tuple(ids[-ANSWER:])


def test_documents_too_short_are_left_out() -> None:
    short = counting(range(0, 290, 29), CONTEXT + CHOICE - 1)
    long = counting(range(300, 308), CONTEXT + CHOICE)
    items = asked(token_set("pretrain", [*short, *long])).cloze
    assert sorted(item.context[0] for item in items) == list(range(300, 308))
    assert {len(choice) for item in items for choice in item.choices} == {CHOICE}
    few = asked(token_set("pretrain", [*short, *long[:-1]]))
    assert not few.cloze and len(few.beginnings) == 4
    assert not asked(token_set("pretrain", counting([5], 16))).beginnings
    assert asked(token_set("pretrain", long), length=CONTEXT + CHOICE - 1) == Probes((), (), STOPS, chat=False)


def test_a_chat_is_asked_for_its_first_answer() -> None:
    """What was said last before it is the context. Too short an answer, or one without a question, asks nothing."""
    chats = counting(range(0, 200, 20), 150)
    learnt = [slice(100, 116)] * 8 + [slice(100, 115), slice(0, 20)]
    probes = asked(token_set("chat", chats, learnt))
    assert sorted(item.context[0] for item in probes.cloze) == [start + 100 - CONTEXT for start in range(0, 160, 20)]
    assert all(item.choices[0][0] == item.context[-1] + 1 and len(item.context) == CONTEXT for item in probes.cloze)
    assert all(len(ids) == 96 for ids in probes.beginnings)
    unlearnt = token_set("chat", chats, [slice(0, 0)] * 10)
    assert not asked(unlearnt).cloze and not asked(unlearnt).beginnings


def test_choices_that_say_the_same_are_no_choice() -> None:
    """A corpus of one answer would otherwise ask what cannot be known."""
    same = token_set("chat", [[number, *range(30, 60)] for number in range(12)], [slice(1, 31)] * 12)
    assert not asked(same).cloze


def test_the_questions_follow_from_the_held_out_set_alone() -> None:
    assert asked(texts()) == asked(texts(), length=512)
    assert asked(texts()) != asked(texts(21))


@pytest.mark.parametrize(
    ("stage", "config", "wanted"),
    [
        ("pretrain", PretrainConfig(model=TINY, **SHORT), NAMES),
        ("sft", SftConfig(**SHORT), ANSWERED),  # twelve chats, few of them with a long answer
        ("dpo", DpoConfig(**SHORT | {"tokens": 5 * 1600, "batch_tokens": 1600}), set()),
    ],
)
def test_probes_change_no_bit_of_a_training_and_are_in_its_log(
    stage: str,
    config: TrainConfig,
    wanted: set[str],
    base: Path,
    token_artifacts: Tokens,
    tokenizer_artifact: Artifact,
    tmp_path: Path,
) -> None:
    """Weights, optimizer, torch's generator and all other figures; in the log at every look, and in the summary."""
    results, generators = {}, []
    for probes in (True, False):
        out_dir = tmp_path / str(probes)
        out_dir.mkdir()
        changed = config.replace(probes=probes)
        assert changed.identity() == config.identity()
        torch.manual_seed(1)
        job.run_rank(run_of(stage, changed, out_dir, token_artifacts, tokenizer_artifact, base), ONE_RANK)
        generators.append(torch.get_rng_state())
        results[probes] = json.loads((out_dir / "training.json").read_text())["figures"]
    assert torch.equal(*generators)
    assert set(results[True]) - set(results[False]) == wanted
    for name in ("weights_digest", "optimizer_digest"):
        assert results[True][name] == results[False][name]
    looks = [found for _, found in figures_of(tmp_path / "True") if "validation_loss" in found]
    assert len(looks) == 2
    assert all(wanted <= set(look) for look in looks)
    assert all(looks[-1][name] == results[True][name] for name in wanted)
    logs = [figures_of(tmp_path / name) for name in ("True", "False")]
    without = [(step, {k: v for k, v in found.items() if k not in wanted}) for step, found in logs[0]]
    assert without == logs[1]


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["zero1", "fsdp"])
def test_two_ranks_have_the_figures_of_one(
    parallel: str, token_artifacts: Tokens, tokenizer_artifact: Artifact, tmp_path: Path
) -> None:
    """Of the same weights to the bit the same figures; weights that are divided are put together by all ranks."""
    config = PretrainConfig(
        model=TINY,
        tokens=8 * 4 * 128,
        length=128,
        batch_tokens=4 * 128,
        micro_tokens=2 * 128,
        warmup_steps=2,
        validate_every=3,
        precision="fp32",
        device="cpu",
        threads=1,
        exact=parallel == "zero1",
    )
    inputs = {"tokens": token_artifacts["pretrain"], "tokenizer": tokenizer_artifact}
    one, _ = build(PRETRAIN, config, inputs, store=Store(tmp_path / "1"))
    two, _ = build(PRETRAIN, config.replace(processes=2, parallel=parallel), inputs, store=Store(tmp_path / "2"))
    curves = [probed(artifact.dir) for artifact in (one, two)]
    assert len(curves[0]) == 3 and all(set(look) == NAMES for look in curves[0])
    if config.exact:
        assert curves[1] == curves[0]
    for look, other in zip(*curves, strict=True):
        assert other["validation_cloze_accuracy"] == pytest.approx(look["validation_cloze_accuracy"], abs=0.07)


def probed(directory: Path) -> list[dict[str, float | None]]:
    """The figures of the probes in a log, look by look."""
    events = read_events(directory / EVENTS_FILE)
    found = [{name: value for name, value in event.metrics.items() if name in NAMES} for event in events]
    return [look for look in found if look]
