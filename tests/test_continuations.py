"""Multiple choice and cloze against a slow float64 reference, and what must not change their scores."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from engine_parts import tiny_model

from minimind.errors import DataError
from minimind.evaluate.baseline import fit_ngram
from minimind.evaluate.choices import ChoiceItem, Choices
from minimind.evaluate.continuations import choice_scores, continue_ids, encode_question
from minimind.evaluate.material import Facts, Ngrams, Subject
from minimind.evaluate.rows import read_choices
from minimind.model.transformer import Transformer
from minimind.tokens.tokenizer import END_OF_TEXT, Tokenizer

QUESTIONS = (
    ("What does the boat do?", ("sail over the river", "read a page", "sing"), 0),
    ("春天来了，", ("花开了", "水是生命的源头", "猫"), 0),
    ("Which word is about paper?", ("water", "music and paper", "stone"), 1),
    ("x", ("never under between water light", "y"), 1),
)


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> Transformer:
    return tiny_model(tokenizer.vocab_size)


def exact(model: Transformer) -> Transformer:
    """The same weights in float64."""
    wide = Transformer(model.config, compute_dtype=torch.float64).double()
    wide.load_state_dict(model.state_dict())
    return wide.eval()


def slow_log_prob(model: Transformer, before: list[int], after: list[int]) -> float:
    """Σ log p of `after` behind `before`, one whole sequence through the model for every token."""
    total = 0.0
    with torch.inference_mode():
        for place, label in enumerate(after):
            logits_V = model(torch.tensor([[*before, *after[:place]]]))[0, -1]
            total += float(torch.log_softmax(logits_V.double(), -1)[label])
    return total


def subject(model: Transformer, tokenizer: Tokenizer, *, batch_tokens: int = 300) -> Subject:
    return Subject(model, tokenizer, context=256, batch_tokens=batch_tokens, precision="fp32")


def choices(questions: tuple = QUESTIONS, **changes: object) -> Choices:
    items = [ChoiceItem(question, options, answer) for question, options, answer in questions]
    return Choices("quiz", "made up", [Facts(str(n)) for n in range(len(items))], items, **changes)


def test_scores_equal_a_slow_float64_reference(model: Transformer, tokenizer: Tokenizer):
    """The beginning is computed once and choices share a row: none of it may show in the numbers."""
    wide = exact(model)
    encoded = [encode_question(tokenizer, f"{q}\n", c, max_tokens=256)[0] for q, c, _ in QUESTIONS]
    found = choice_scores(model, encoded, batch_tokens=64)
    for (text, options, _), scores in zip(QUESTIONS, found, strict=True):
        before = [END_OF_TEXT, *tokenizer.encode(f"{text}\n")]
        for option, log_prob in zip(options, scores.log_probs, strict=True):
            whole = [END_OF_TEXT, *tokenizer.encode(f"{text}\n{option}")]
            assert whole[: len(before)] == before
            assert log_prob == pytest.approx(slow_log_prob(wide, before, whole[len(before) :]), abs=1e-4)


def test_a_piece_that_reaches_over_the_border_is_scored_whole(model: Transformer, tokenizer: Tokenizer):
    """Half a piece is no token: where context and choice melt together, the score is that of the whole piece."""
    wide, start = exact(model), [END_OF_TEXT]
    melting = next(
        (piece[:1], piece[1:])
        for piece in (raw.decode("utf-8", "ignore") for raw in tokenizer.piece_bytes())
        if len(piece) == 3
        and piece.isalpha()
        and len(tokenizer.encode(piece)) == 1
        and len(tokenizer.encode(piece[:1])) == 1
    )
    context, rest = melting
    question, _ = encode_question(tokenizer, context, (rest, " water"), max_tokens=64)
    (scores,) = choice_scores(model, [question])
    for option, log_prob in zip((rest, " water"), scores.log_probs, strict=True):
        whole = [*start, *tokenizer.encode(context + option)]
        own = 1 if option == rest else len(whole) - len(tokenizer.encode(" water"))
        assert log_prob == pytest.approx(slow_log_prob(wide, whole[:own], whole[own:]), abs=1e-4)


def test_greedy_is_what_decoding_would_have_said(model: Transformer, tokenizer: Tokenizer):
    """lm-eval asks whether a continuation is the likeliest one, token by token."""
    prompt = [END_OF_TEXT, *tokenizer.encode("the small boat")]
    ids = list(prompt)
    with torch.inference_mode():
        for _ in range(5):
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    said = ids[len(prompt) :]
    other = [*said[:-1], (said[-1] + 1) % tokenizer.vocab_size]
    (scores,) = choice_scores(model, [continue_ids(prompt, [said, other, said[:2]], max_tokens=64)])
    assert scores.greedy.tolist() == [True, False, True]


def test_how_questions_are_batched_changes_nothing(model: Transformer, tokenizer: Tokenizer):
    """Padding and company are no part of a score."""
    encoded = [encode_question(tokenizer, q, c, max_tokens=256)[0] for q, c, _ in QUESTIONS]
    together, alone = choice_scores(model, encoded, batch_tokens=4096), choice_scores(model, encoded, batch_tokens=1)
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one.log_probs, other.log_probs, atol=1e-4)


def test_a_long_beginning_is_cut_from_the_left(tokenizer: Tokenizer):
    """The end of a text is what a choice follows."""
    text = "water light " * 100 + "river"
    question, cut = encode_question(tokenizer, text, (" stone", " paper garden"), max_tokens=32)
    assert cut and question.prefix == tuple(tokenizer.encode(text)[-len(question.prefix) :])
    assert len(question.prefix) + max(map(len, question.choices)) - 1 == 32  # the last is predicted, not read
    with pytest.raises(DataError, match="32 can be seen at once"):
        encode_question(tokenizer, "a", ("water light " * 100, "b"), max_tokens=32)


@pytest.mark.parametrize("kind", ["choices", "cloze"])
def test_the_order_of_choices_changes_nothing(model: Transformer, tokenizer: Tokenizer, kind: str):
    """A file may list its choices in any order: every metric stays as it was, letters too."""
    shuffled = []
    for seed, (text, options, answer) in enumerate(QUESTIONS):
        order = random.Random(seed + 5).sample(range(len(options)), len(options))
        shuffled.append((text, tuple(options[at] for at in order), order.index(answer)))
    one, other = (choices(q, kind=kind).measure(subject(model, tokenizer)) for q in (QUESTIONS, tuple(shuffled)))
    assert one.keys() == other.keys() and ("accuracy_letters" in one) == (kind == "choices")
    for metric, values in one.items():
        np.testing.assert_array_equal(values.values, other[metric].values)


def test_letters_stand_for_every_choice_in_turn(model: Transformer, tokenizer: Tokenizer):
    """A model that likes a letter whatever it stands for must get what chance gives."""
    fond = Transformer(model.config, seed=1)
    with torch.no_grad():
        for name, parameter in fond.named_parameters():
            parameter.mul_(0 if name.endswith(("o_proj.weight", "down_proj.weight")) else 1)
    measured = choices(QUESTIONS[:1]).measure(subject(fond, tokenizer))["accuracy_letters"]
    assert measured.values[0] == pytest.approx(1 / 3)


def test_equal_choices_share_the_point(model: Transformer, tokenizer: Tokenizer):
    """Neither the first nor the last of equals is taken."""
    twice = (("What?", ("water", "water"), 1),)
    assert choices(twice).measure(subject(model, tokenizer))["accuracy"].values.tolist() == [0.5]


def test_length_counts_in_characters_as_lm_eval_has_it(model: Transformer, tokenizer: Tokenizer):
    """`accuracy_normalised` is what others call acc_norm."""
    wide = exact(model)
    text, options, answer = QUESTIONS[3]
    wording = "Q: {question}\nA:"
    measured = choices((QUESTIONS[3],), wordings=(wording,)).measure(subject(model, tokenizer))
    before = [END_OF_TEXT, *tokenizer.encode(f"Q: {text}\nA:")]
    sums = np.array(
        [
            slow_log_prob(wide, before, [END_OF_TEXT, *tokenizer.encode(f"Q: {text}\nA: {o}")][len(before) :])
            for o in options
        ]
    )
    assert measured["accuracy"].values[0] == float(sums.argmax() == answer)
    by_length = sums / np.array([len(option) for option in options])
    assert measured["accuracy_normalised"].values[0] == float(by_length.argmax() == answer)


def test_an_ngram_plays_too_and_knows_what_it_has_read():
    """The counting baseline answers the same questions in the same wording."""
    ngram = fit_ngram([b"What does the boat do?\nsail over the river\n" * 3, b"the rest of the text"], order=6)
    found = choices(QUESTIONS[:1], wordings=("{question}\n",)).baseline(Ngrams(fit_text=lambda: ngram))
    assert found["accuracy"].values.tolist() == [1.0] and "accuracy_letters" not in found
    assert choices().baseline(Ngrams()) == {}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"choices": ["a", "b"], "answer": 0}, "`question` must be a string"),
        ({"question": "?", "choices": ["a"], "answer": 0}, "has 1 choices; two are needed"),
        ({"question": "?", "choices": ["a", " "], "answer": 0}, "an empty choice"),
        ({"question": "?", "choices": ["a", "b"], "answer": 2}, "choice 2 is right"),
        ({"question": "?", "choices": ["a", "b"], "answer": "c"}, "`answer` must be"),
        ({"question": "?", "choices": ["B", "A"], "answer": "A"}, "may be any of .* give its number"),
        ({"question": "?", "choices": ["a", 1], "answer": 0}, "a list of strings"),
        ({"question": " ", "choices": ["a", "b"], "answer": 0}, "asks nothing"),
    ],
)
def test_a_bad_item_is_told_with_its_line(tmp_path: Path, row: dict, said: str):
    """An evaluation with a part of its items is another evaluation: the first bad line stops it."""
    path = tmp_path / "quiz.jsonl"
    good = {"question": "?", "choices": ["a", "b"], "answer": "B"}
    path.write_text(json.dumps(good) + "\n\n" + json.dumps(row) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=f"quiz.jsonl:3: .*{said}"):
        read_choices(path, "choices")


def test_items_are_read_with_their_facts(tmp_path: Path):
    """Groups of the report come from here; an item without an id has one that its words decide."""
    path = tmp_path / "quiz.v2.jsonl"
    rows = [
        {
            "question": "水是什么？",
            "choices": ["生命的源头", "石头"],
            "answer": "A",
            "subject": "nature",
            "source": "made",
        },
        {"id": "x", "question": "Who reads?", "choices": ["she", "the boat"], "answer": "she", "context": "She reads."},
        {"id": "x", "question": "Who?", "choices": ["she", "the boat"], "answer": 1},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = read_choices(path, "choices")
    assert found.name == "quiz" and [facts.id for facts in found.facts[1:]] == ["x", "x#2"]
    assert (found.facts[0].language, found.facts[0].subject, found.facts[0].source) == ("zh", "nature", "made")
    assert [item.answer for item in found.items] == [0, 0, 1] and found.items[1].context == "She reads."
    assert found.chance()["accuracy"] == 0.5
