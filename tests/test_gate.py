"""The gate: what refuses a model, what it is compared with, and what then stands where."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import Command, SealCorpus, Tracked, documents
from evaluation_parts import EVALUATION, Makers, figure
from rich.console import Console

from flows import local
from minimind.artifact import Artifact, Store
from minimind.errors import ConfigError, GateError, MissingError
from minimind.evaluate.config import GateConfig
from minimind.evaluate.evaluated import BITS, TEXT, evaluated, texts_anew
from minimind.evaluate.gate import Ruling, Verdict, absolute_rules, against, drift, own_rules
from minimind.evaluate.results import Evaluation, Figure, ModelResult, RewardScore, Task, TaskResult
from minimind.evaluate.table import Items
from minimind.recipe import load_recipe
from minimind.stage import build
from minimind.tokens.tokenizer_training import TOKENIZER, TokenizerConfig
from tasks.display import Display
from tasks.finishing import publish
from tasks.gate import gate_of, is_settled, kept, pass_gate, refusal
from tasks.registry import CHAMPION
from tasks.stage import Pipeline
from tasks.tracking import Tracker

NOISE = 0.3
"""Of the planted regression: it costs some tenths of a bit per byte."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def makers(home: Path, tokenizer_artifact: Artifact, corpus: Artifact) -> Makers:
    """In a store of its own, to which the session's corpus and tokenizer are copied."""
    store = Store(home)
    for artifact in (tokenizer_artifact, corpus):
        shutil.copytree(artifact.dir, store.path(artifact.kind, artifact.fingerprint))
    return Makers(store, *(store.find(one.kind, one.fingerprint) for one in (tokenizer_artifact, corpus)))


@pytest.fixture(scope="module")
def tracker(home: Path, tracked: Tracked) -> Tracker:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        return tracked(home)


@pytest.fixture(autouse=True)
def _here(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINIMIND_HOME", str(home))
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def good(makers: Makers, tracker: Tracker) -> Artifact:
    """A published model, registered, and the champion."""
    published = makers.published(makers.model("sft"))
    crown(tracker, published)
    return published


@pytest.fixture(scope="module")
def bad(makers: Makers, tracker: Tracker, good: Artifact) -> Artifact:
    """The planted regression: the same model with noise on its weights, published by the same rules."""
    published = makers.published(makers.model("sft", noise=NOISE))
    tracker.record(published)
    return published


def crown(tracker: Tracker, artifact: Artifact) -> str:
    """Register a model and make it the champion, without asking anybody."""
    done = tracker.record(artifact)
    assert done.name and done.uri
    tracker.set_alias(done.name, CHAMPION, done.uri)
    return done.uri


def champion(tracker: Tracker, name: str = "minimind-chat") -> str | None:
    return tracker.alias_of(name, CHAMPION)


def tags(tracker: Tracker, artifact: Artifact) -> dict[str, str]:
    done = tracker.registration(artifact)
    assert done
    return tracker.client.get_model_version(done.name, str(done.version)).tags


def items(*values: float, weight: float = 1.0) -> Items:
    return {f"text {number}": (value, weight) for number, value in enumerate(values)}


def said(value: float, low: float, high: float) -> dict[str, Figure]:
    return {"repetition": figure(value, low, high)}


def result(**changes: Any) -> ModelResult:
    """A model that no rule refuses."""
    tasks = {
        "text": TaskResult(figures={"bits_per_byte": figure(1.5, 1.4, 1.6)}, leaked=0),
        "preference": TaskResult(figures={"accuracy_per_token": figure(0.7, 0.61, 0.78)}, leaked=2),
        "arithmetic": TaskResult(figures={"passed": figure(0.4, 0.3, 0.5)}),
        "open_ended": TaskResult(figures={"same": figure(0.1, 0.05, 0.15)}),
    }
    good = ModelResult(fingerprint="f", parameters=1, context=8, tasks=tasks, said=said(0.1, 0.05, 0.15))
    return good.replace(**changes)


def measured(**changes: Any) -> Evaluation:
    tasks = {
        "text": Task(kind="text", items=100, about="rows"),
        "preference": Task(kind="preference", items=100, about="rows", chance={"accuracy_per_token": 0.5}),
    }
    return Evaluation(tasks=tasks, models={"dpo": result(**changes)})


def unsure() -> dict[str, TaskResult]:
    return {
        **result().tasks,
        "preference": TaskResult(figures={"accuracy_per_token": figure(0.53, 0.47, 0.58)}, leaked=40),
    }


ALL_RULES = GateConfig(max_leaked=0.1, at_least={"arithmetic_passed": 0.35}, at_most={"bits_per_byte": 1.6})


@pytest.mark.parametrize(
    ("changes", "gate", "rule", "words"),
    [
        (
            {"tasks": unsure()},
            {"max_leaked": None},
            "preference_above_chance",
            "53.0% (95 %: at least 47.0%) of 100 pairs",
        ),
        (
            {"said": said(0.9, 0.84, 0.95)},
            {},
            "max_repetition",
            "90.0% (95 %: at least 84.0%) of the 4-grams in 100 answers had been said before; max_repetition",
        ),
        (
            {"tasks": {**result().tasks, "open_ended": TaskResult(figures={"same": figure(0.8, 0.7, 0.9)})}},
            {},
            "max_same_answers",
            "80.0% (95 %: at least 70.0%) of 100 open questions got the very same answer as another one",
        ),
        (
            {"tasks": unsure()},
            {"preference_above_chance": False},
            "max_leaked",
            "had 40.0% of the items of preference, the most of any task; max_leaked allows 10.0%",
        ),
        (
            {},
            {"at_least": {"arithmetic_passed": 0.5}},
            "at_least.arithmetic_passed",
            "is 0.4; at least 0.5 is asked for",
        ),
        ({}, {"at_most": {"bits_per_byte": 1.2}}, "at_most.bits_per_byte", "bits_per_byte is 1.5; at most 1.2"),
        ({}, {"at_least": {"arithmetic_pased": 0.1}}, "at_least.arithmetic_pased", "did you mean `arithmetic_passed`"),
    ],
)
def test_each_rule_refuses_what_it_is_there_for_and_nothing_else(
    changes: dict[str, Any], gate: dict[str, Any], rule: str, words: str
):
    """With the figures and the name of the setting, so that one line says what to change."""
    assert all(ruling.passed for ruling in absolute_rules(ALL_RULES, measured(), "dpo"))
    refused = [one for one in absolute_rules(ALL_RULES.replace(**gate), measured(**changes), "dpo") if not one.passed]
    assert [one.rule for one in refused] == [rule]
    assert words in refused[0].detail


def test_what_was_not_measured_holds_nobody_up_and_is_not_called_passed():
    """A recipe without pairs has no preference accuracy; a card must not say that it was above chance."""
    rulings = absolute_rules(ALL_RULES.replace(at_least={}, at_most={}), measured(tasks={}, said={}), "dpo")
    assert {one.rule: one.passed for one in rulings} == {
        "preference_above_chance": None,
        "max_repetition": None,
        "max_same_answers": None,
        "max_leaked": None,
    }
    assert verdict(*rulings).passed


def test_loops_that_may_be_chance_refuse_nobody():
    """Ten answers are too few to tell 50 % from 60 %."""
    gate = GateConfig(preference_above_chance=False, max_same_answers=None)
    (ruling,) = absolute_rules(gate, measured(said=said(0.6, 0.4, 0.8)), "dpo")
    assert ruling.passed and ruling.detail.startswith("60.0% (95 %: at least 40.0%) of the 4-grams in 100 answers")


def test_a_gain_over_the_reference_is_enough_where_the_accuracy_is_not_above_chance():
    """Longer answers are less likely, whatever was learnt; the gain is what preference training moves."""
    reward = RewardScore(reference="sft", accuracy=0.7, interval={"low": 0.6, "high": 0.8}, margin=1.0)
    (ruling,) = absolute_rules(
        GateConfig(max_repetition=None, max_same_answers=None), measured(tasks=unsure(), reward=reward), "dpo"
    )
    assert ruling.passed and "moved towards it in 70.0%" in ruling.detail
    assert not absolute_rules(GateConfig(max_repetition=None, max_same_answers=None), measured(tasks=unsure()), "dpo")[
        0
    ].passed
    assert "preference_above_chance" not in {
        one.rule for one in absolute_rules(GateConfig(), Evaluation(tasks={}, models={"sft": result()}), "sft")
    }


@pytest.mark.parametrize(
    ("model", "passed"),
    [
        ([1.5, 1.6, 1.5, 1.6] * 10, False),  # half a bit worse on every text
        ([1.0, 1.1, 1.0, 1.1] * 10, True),  # the same
        ([0.5, 0.6, 0.5, 0.6] * 10, True),  # better
        ([1.005, 1.105, 1.005, 1.105] * 10, True),  # worse for sure, but by less than what is allowed
        ([0.1, 2.3, 0.0, 2.1] * 10, True),  # worse by 0.075, and nobody knows
        ([float("nan"), 1.0, 1.0, 1.0] * 10, False),
    ],
)
def test_only_a_sure_loss_against_the_champion_is_refused(model: list[float], passed: bool):
    """Drawn on the same texts: an interval that reaches down to what is allowed is no proof of a loss."""
    ruling = against(GateConfig(), items(*model), items(*[1.0, 1.1, 1.0, 1.1] * 10))
    assert ruling.passed is passed
    assert ruling.rule == "max_bits_per_byte_loss" and "max_bits_per_byte_loss allows +0.01" in ruling.detail


def test_a_drift_is_a_share_of_what_the_start_needed():
    """2 % of 2 bits per byte are more bits than 2 % of 1; both are the same forgetting."""
    start = items(*[2.0, 2.2] * 20)
    assert drift(GateConfig(max_drift=0.02), items(*[2.03, 2.23] * 20), start, name="sft").passed
    ruling = drift(GateConfig(max_drift=0.02), items(*[2.2, 2.42] * 20), start, name="sft")
    assert ruling.passed is False and "+10.0% bits per byte against sft" in ruling.detail


def test_drift_is_measured_against_the_model_it_was_trained_from(makers: Makers):
    """By what the evaluation has of both; a model that starts from nothing measured is not judged."""
    start = makers.model("sft")
    lost = makers.model("dpo", noise=NOISE, start=start)
    model = evaluated(makers.published(start, lost))
    gate = GateConfig(max_drift=0.02, preference_above_chance=False, max_repetition=None, max_same_answers=None)
    (ruling,) = own_rules(gate, model)
    assert ruling.rule == "max_drift" and ruling.passed is False and "against sft" in ruling.detail
    (ruling,) = own_rules(gate, evaluated(makers.published(lost)))
    assert ruling.passed is None and "was not measured" in ruling.detail
    (ruling,) = own_rules(gate.replace(enabled=False), model)
    assert ruling.rule == "enabled" and ruling.passed is None


def test_a_regression_is_refused_with_exit_code_3_and_its_figures(
    good: Artifact, bad: Artifact, tracker: Tracker, home: Path, minimind: Command
):
    """By the command: the champion stays, and the verdict stands in the store, in the registry and on the terminal."""
    before = crown(tracker, good)
    code, out, err = minimind("promote", str(bad.dir))
    assert code == 3 and f"@champion of minimind-chat stays {before}" in err
    assert "max_bits_per_byte_loss" in out and "bits per byte of held-out text, the champion" in out
    assert champion(tracker) == before
    verdict = kept(home, bad)
    assert verdict and verdict.state == "refused" and verdict.champion and verdict.champion.uri == before
    assert tags(tracker, bad)["gate"] == "refused"
    assert "max_bits_per_byte_loss allows +0.01" in tags(tracker, bad)["gate_reason"]


def test_a_better_model_and_an_equal_one_pass(good: Artifact, bad: Artifact, makers: Makers, tracker: Tracker):
    crown(tracker, bad)
    done = local.promote(str(good.dir))
    assert done.verdict.state == "passed" and done.now == champion(tracker) == tracker.registration(good).uri
    assert tags(tracker, good)["gate"] == "passed"
    again = makers.published(makers.model("sft"), max_repetition=0.9)  # the same weights behind another gate
    tracker.record(again)
    done = local.promote(str(again.dir))
    assert [one.detail for one in done.verdict.rulings if "very model" in one.detail] and done.verdict.passed
    assert local.promote(str(again.dir)).verdict.rulings[0].rule == "champion"


def test_the_champions_own_evaluation_is_used_where_it_was_made_on_these_texts(
    good: Artifact, bad: Artifact, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
):
    """Measuring a large champion anew takes minutes; its figures are there."""
    crown(tracker, good)
    monkeypatch.setattr("minimind.evaluate.gate.texts_anew", lambda *_, **__: pytest.fail("was measured again"))
    assert local.promote(str(bad.dir)).verdict.state == "refused"


def test_a_champion_with_another_tokenizer_and_other_texts_is_measured_anew(
    makers: Makers, seal_corpus: SealCorpus, tracker: Tracker
):
    """Bits per byte of the same text compare what tokens cannot; the new figures are those of a real evaluation."""
    other = seal_corpus("pretrain", [{"text": text} for text in documents(80, seed=9)])
    tokenizer = build(TOKENIZER, TokenizerConfig(vocab_size=400), {"corpus": other}, store=makers.store)[0]
    theirs = Makers(makers.store, tokenizer, other)
    model = theirs.model("sft")
    crown(tracker, theirs.published(model))
    worse = makers.published(makers.model("sft", noise=1.0))
    tracker.record(worse)
    done = local.promote(str(worse.dir))
    (ruling,) = [one for one in done.verdict.rulings if one.rule == "max_bits_per_byte_loss"]
    same_texts = evaluated(makers.published(model, evaluation=makers.evaluation(model))).items(TEXT, BITS)
    expected = sum(value for value, _ in same_texts.values()) / sum(weight for _, weight in same_texts.values())
    assert done.verdict.state == "refused" and f"the champion {expected:.4f}" in ruling.detail


def test_figures_of_another_context_are_not_compared(
    bad: Artifact, makers: Makers, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
):
    """A champion that was shown 8 tokens at a time looks bad, and would let anything past."""
    model = makers.model("sft")
    short = makers.evaluation(model, config=EVALUATION.replace(context=8))
    crown(tracker, makers.published(model, evaluation=short))
    seen: list[int] = []

    def spy(*arguments: Any, context: int) -> Items:
        seen.append(context)
        return texts_anew(*arguments, context=context)

    monkeypatch.setattr("minimind.evaluate.gate.texts_anew", spy)
    assert local.promote(str(bad.dir)).verdict.state == "refused"
    assert seen == [evaluated(bad).result.context] and seen[0] > evaluated(model).result.context


def test_a_champion_whose_files_are_gone_is_not_passed_by(
    bad: Artifact, makers: Makers, tracker: Tracker, home: Path, tmp_path: Path
):
    """Nobody knows then whether the model is worse; the way past is to say so."""
    lost = makers.published(makers.model("sft", seed=5))
    uri = crown(tracker, lost)
    moved = [lost.dir, home / "mlartifacts"]
    for number, path in enumerate(moved):
        path.rename(tmp_path / str(number))
    try:
        done = local.promote(str(bad.dir))
    finally:
        for number, path in enumerate(moved):
            (tmp_path / str(number)).rename(path)
    assert done.verdict.state == "refused" and champion(tracker) == uri
    assert "could not be compared with the champion" in done.verdict.reason and "--force" in done.verdict.reason


def test_what_is_forced_says_by_whom_and_why(
    good: Artifact, bad: Artifact, tracker: Tracker, home: Path, monkeypatch: pytest.MonkeyPatch, minimind: Command
):
    """A champion that the gate refused is to be told from one that passed, in a year too."""
    crown(tracker, good)
    monkeypatch.setenv("LOGNAME", "somebody")
    code, out, _ = minimind("promote", str(bad.dir), "--force", "--reason", "a demo", "--json")
    told = json.loads(out)
    assert code == 0 and told["verdict"]["state"] == "forced" and told["champion"] == champion(tracker)
    verdict = kept(home, bad)
    assert verdict and verdict.forced and (verdict.forced.by, verdict.forced.reason) == ("somebody", "a demo")
    assert tags(tracker, bad)["gate"] == "forced" and "forced by somebody: a demo" in tags(tracker, bad)["gate_reason"]
    local.promote(str(bad.dir))  # it is the champion already
    assert kept(home, bad) == verdict


def test_a_reason_alone_promotes_nothing(bad: Artifact, minimind: Command):
    code, _, err = minimind("promote", str(bad.dir), "--reason", "a demo")
    assert code == 2 and "together with --force" in err


def test_a_model_that_no_evaluation_measured_is_refused_with_the_remedy(makers: Makers, tracker: Tracker):
    """What nobody measured may be anything."""
    model = makers.model("lora", noise=0.01)
    tracker.record(model)
    with pytest.raises(MissingError, match="no evaluation measured it; `minimind run evaluate`"):
        local.promote(str(model.dir))
    assert champion(tracker, "minimind-lora") is None
    done = local.promote(str(model.dir), force=True)
    assert done.verdict.state == "forced" and done.verdict.rulings[0].rule == "evaluation"


def test_any_model_is_judged_by_the_newest_evaluation_that_measured_it(makers: Makers, tracker: Tracker):
    """An sft model has no evaluation among its parents; @champion of its own name is what it meets."""
    first, second = makers.model("pretrain"), makers.model("pretrain", noise=NOISE)
    for model in (first, second):
        makers.evaluation(model)
        tracker.record(model)
    assert local.promote(str(first.dir)).verdict.passed
    done = local.promote(str(second.dir))
    assert done.verdict.state == "refused" and done.before == done.now == tracker.registration(first).uri
    evaluation = makers.evaluation(second, config=EVALUATION.replace(max_documents=30))
    assert evaluated(second).source.fingerprint == evaluation.fingerprint


def test_the_gate_is_that_of_the_manifest_or_of_the_recipe(good: Artifact, makers: Makers, tmp_path: Path):
    """A published model says itself what it has to pass; a recipe that is given counts more."""
    strict = makers.published(makers.model("sft"), at_least={"bits_per_byte": 9.0})
    assert gate_of(strict)[0].at_least == {"bits_per_byte": 9.0}
    settings = '[model]\npreset = "minimind-nano"\n[pretrain]\ntokens = 9000\n[gate]\nmax_leaked = 0.3\n'
    (tmp_path / "mine.toml").write_text(settings)
    assert gate_of(strict, str(tmp_path / "mine.toml"))[0] == GateConfig(max_leaked=0.3)
    model = makers.model("sft")
    assert gate_of(model)[0] == GateConfig()
    known = Artifact(model.dir, model.manifest.replace(context={"recipe": "quickstart"}))
    assert gate_of(known) == (load_recipe("quickstart").gate, "recipe quickstart")


def test_a_pipeline_notes_the_verdict_and_moves_no_alias(good: Artifact, bad: Artifact, tracker: Tracker, home: Path):
    """`publish` raises what `pass_gate` found; until it is settled by another champion the refusal stays true."""
    before = crown(tracker, good)
    run = Pipeline("publish", load_recipe("quickstart"), None, Store(home), tracker, Display(Console(quiet=True)))
    verdict = pass_gate(run, bad)
    assert verdict.state == "refused" and kept(home, bad) == verdict and champion(tracker) == before
    error = refusal(verdict, bad, tracker)
    assert isinstance(error, GateError) and error.exit_code == 3 and isinstance(error, RuntimeError)
    for words in (tracker.registration(bad).uri, verdict.reason, f"stays {before}", "report.html", "--force"):
        assert words in str(error)
    assert is_settled(verdict, bad, tracker)
    crown(tracker, bad)
    assert not is_settled(verdict, bad, tracker)
    run.tracker = None
    (home / "gate" / f"publish-{bad.fingerprint}.json").unlink()
    assert pass_gate(run, bad).passed and kept(home, bad) is None  # in full only when there is a registry


def test_only_a_sweep_goes_on_behind_a_refusal(
    good: Artifact, bad: Artifact, tracker: Tracker, home: Path, monkeypatch: pytest.MonkeyPatch
):
    """A point of a sweep is often worse than the one before: that is a result, not a failure; no alias moves."""
    before = crown(tracker, good)
    run = Pipeline("publish", load_recipe("quickstart"), None, Store(home), tracker, Display(Console(quiet=True)))
    monkeypatch.setattr(Pipeline, "stage", lambda *_: bad)
    with pytest.raises(GateError, match="max_bits_per_byte_loss allows"):
        publish(run, {}, bad, {})
    run.context = {"sweep": "one"}
    assert publish(run, {}, bad, {}) is bad and champion(tracker) == before
    run.context, run.planning = {}, True
    assert publish(run, {}, bad, {}) is bad
    crown(tracker, bad)
    run.planning = False
    monkeypatch.setattr(Pipeline, "stage", lambda *_: good)
    publish(run, {}, good, {})
    assert champion(tracker) == before


def test_the_gate_has_a_section_of_its_own_and_goes_into_what_is_published():
    """So that the manifest of a published model says what it had to pass, and a changed gate judges anew."""
    recipe = load_recipe("quickstart", overrides=["gate.at_least.arithmetic_passed=0.2"])
    assert recipe.publish_config().gate.at_least == {"arithmetic_passed": 0.2}
    with pytest.raises(ConfigError, match="unknown key `publish.gate`"):
        load_recipe("quickstart", overrides=["publish.gate.enabled=false"])


def test_the_report_shows_the_verdict_below_the_card(
    good: Artifact, bad: Artifact, tracker: Tracker, home: Path, minimind: Command
):
    """`report`, `report CARD` and `report show CARD` are one command; `--json` has the verdict too."""
    crown(tracker, good)
    local.promote(str(bad.dir))

    for words in ((str(bad.dir),), ("show", str(bad.dir))):
        code, text, _ = minimind("report", *words)
        assert code == 0 and "The card" in text and "the gate: refused" in text and "report.html" in text
        assert text.index("The card") < text.index("max_bits_per_byte_loss")
    assert json.loads(minimind("report", str(bad.dir), "--json")[1])["gate"]["state"] == "refused"
    (home / "gate" / f"publish-{bad.fingerprint}.json").unlink()
    assert "has not judged" in minimind("report", str(bad.dir))[1]
    assert "The card" in minimind("report")[1]


def verdict(*rulings: Ruling) -> Verdict:
    return Verdict(
        model="dpo",
        label="publish",
        fingerprint="f",
        champion=None,
        gate=GateConfig(),
        rulings=list(rulings),
        judged_at="now",
    )
