"""Evaluate and publish, from corpus to page, with models of a few thousand random weights."""

import html.parser
import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from minimind.artifact import Artifact, Store, Summary
from minimind.config import Config
from minimind.data.documents import RowKind, check_row
from minimind.data.dropped import DropLog
from minimind.data.sharding import SHARD, ShardConfig
from minimind.data.shards import write_rows
from minimind.data.wording import cell, duration
from minimind.errors import ArtifactError, ConfigError, DataError, MissingError
from minimind.evaluate.card import Report, read_report
from minimind.evaluate.config import EvaluateConfig, PublishConfig
from minimind.evaluate.findings import findings
from minimind.evaluate.page import fenced, render_html, render_markdown, shown
from minimind.evaluate.report import PUBLISH, draw
from minimind.evaluate.results import Answer, Evaluation, Interval, read_evaluation
from minimind.evaluate.stage import EVALUATE
from minimind.events import EVENTS_FILE, EventWriter
from minimind.infer.generate import load
from minimind.model.config import ModelConfig
from minimind.model.transformer import Transformer
from minimind.model.weights import save_model
from minimind.stage import Stage, build
from minimind.tokens.tokenizer import Tokenizer
from minimind.tokens.tokenizer_training import TOKENIZER, TokenizerConfig
from minimind.tokens.tokenizing import TOKENS, TokensConfig

ATTACK = "</pre><script>alert('x')</script><img src=x onerror=alert(1)> | `tick` ``` \x1b[31m"
PROMPTS = ("Who are you?", ATTACK)
NOUNS = ("list", "tuple", "queue", "stack", "graph", "table", "string", "number", "buffer", "stream")
CONTEXT = {"recipe": "tiny", "data": "toys <b>"}


class Toy(Config):
    """Settings of the toy stages below."""

    rows: RowKind = "pretrain"
    seed: int = 0
    length: int = 32


def toy_rows(kind: RowKind) -> Iterable[dict[str, Any]]:
    for line in range(1, 81):
        noun, other = NOUNS[line % 10], NOUNS[line % 7]
        text = f"Item {line}: the {noun} gives every {other} back in order.\n" * (1 + line % 5)
        turns = [{"role": "user", "content": f"What is item {line}?"}, {"role": "assistant", "content": f"A {noun}."}]
        wrong = [turns[0], {"role": "assistant", "content": f"No {other} at all."}]
        value = {"pretrain": {"text": text}, "preference": {"chosen": turns, "rejected": wrong}}[kind]
        yield {**check_row(kind, value), "source": "toys", "line": line, "group": str(line)}


def clean_toys(config: Toy, inputs: Mapping[str, Artifact], out_dir: Path) -> Summary:
    """Rows as the stage `clean` leaves them, three of them dropped."""
    write_rows(out_dir / "rows", config.rows, toy_rows(config.rows))
    with DropLog(out_dir) as log:
        for line, reason in ((1, "bad_json"), (2, "empty_text"), (3, "bad_json")):
            log.add(source="toys", file="toys.jsonl", line=line, rule="check", reason=reason, detail="", text="{")
    return Summary(figures={"rows": 80})


def train_toy(config: Toy, inputs: Mapping[str, Artifact], out_dir: Path) -> Summary:
    """A model directory with random weights and a loss curve."""
    tokenizer = Tokenizer.load(inputs["tokenizer"].dir)
    shape = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "ffn_size": 32, "max_positions": 128}
    save_model(out_dir, Transformer(ModelConfig(vocab_size=tokenizer.vocab_size, **shape), seed=config.seed))
    tokenizer.copy_to(out_dir)
    with EventWriter(out_dir / EVENTS_FILE) as events:
        for step in range(1, 700):
            validation = {"validation_loss": 6 - step / 200} if step % 100 == 0 else {}
            events.step(step, 700, {"loss": 6 - step / 180 if step != 5 else float("nan"), "lr": 1e-3, **validation})
    return Summary(figures={"train_loss": 2.1234567, "tokens": 12345678, "device": "cpu"}, warnings=["it was random"])


CLEAN_TOYS = Stage("clean", clean_toys)
TRAIN = {
    name: Stage(name, train_toy, inputs=("tokenizer",), optional_inputs=("model",))
    for name in ("pretrain", "sft", "dpo", "lora", "distill")
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def artifacts(store: Store) -> dict[str, Artifact]:
    """Everything up to the trained models, made by the real data stages and the toy stages above."""
    made: dict[str, Artifact] = {}

    def run(name: str, stage: Stage, config: Config, **inputs: str) -> None:
        chosen = {key: made[value] for key, value in inputs.items()}
        made[name], _ = build(stage, config, chosen, store=store, context=CONTEXT)

    longest = TokensConfig(rows="preference", max_tokens=50)
    run("clean", CLEAN_TOYS, Toy())
    run("clean_preference", CLEAN_TOYS, Toy(rows="preference"))
    run("corpus", SHARD, ShardConfig(rows="pretrain", validation_fraction=0.2), rows="clean")
    run("corpus_preference", SHARD, ShardConfig(rows="preference", validation_fraction=0.2), rows="clean_preference")
    run("tokenizer", TOKENIZER, TokenizerConfig(vocab_size=320), corpus="corpus")
    run("tokens", TOKENS, TokensConfig(rows="pretrain"), corpus="corpus", tokenizer="tokenizer")
    run("preferences", TOKENS, longest, corpus="corpus_preference", tokenizer="tokenizer")
    run("pretrain", TRAIN["pretrain"], Toy(seed=1), tokenizer="tokenizer")
    run("sft", TRAIN["sft"], Toy(seed=2), tokenizer="tokenizer", model="pretrain")
    run("dpo", TRAIN["dpo"], Toy(seed=3), tokenizer="tokenizer", model="sft")
    return made


@pytest.fixture(scope="module")
def evaluation(artifacts: dict[str, Artifact], store: Store) -> Artifact:
    names = ("pretrain", "sft", "dpo", "tokens", "preferences", "corpus")
    config = EvaluateConfig(prompts=PROMPTS, answer_tokens=6, max_documents=9, resamples=100)
    return build(EVALUATE, config, {name: artifacts[name] for name in names}, store=store, context=CONTEXT)[0]


@pytest.fixture(scope="module")
def published(artifacts: dict[str, Artifact], evaluation: Artifact, store: Store) -> Artifact:
    inputs = {**artifacts, "evaluation": evaluation}
    return build(PUBLISH, PublishConfig(commands=("make <all>",)), inputs, store=store, context=CONTEXT)[0]


@pytest.fixture
def report(published: Artifact) -> Report:
    return read_report(published.dir)


class Page(html.parser.HTMLParser):
    """Collects the tags of a page and fails on one that is closed in the wrong place."""

    EMPTY = frozenset({"meta", "img", "source", "br", "link"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, self.getpos()

    def handle_data(self, data: str) -> None:
        self.words += data


def test_evaluation_measures_every_model_on_the_same_text(evaluation: Artifact, artifacts: dict[str, Artifact]):
    """All models and baselines must have read the same bytes, and the figures must be those of the file."""
    found = read_evaluation(evaluation.dir)
    assert list(found.models) == ["pretrain", "sft", "dpo"]
    assert {model.score.bytes for model in found.models.values()} == {found.baselines.bytes}
    assert {model.score.documents for model in found.models.values()} == {9} and found.validation_documents > 9
    assert {model.score.context for model in found.models.values()} == {32}  # the length pretrain was trained with
    assert found.models["dpo"].reward is not None and found.models["dpo"].reward.reference == "sft"
    assert found.models["sft"].reward is None
    assert [answer.prompt for answer in found.models["sft"].answers] == list(PROMPTS)
    figures = evaluation.summary().figures
    assert figures["pretrain_bits_per_byte"] == pytest.approx(found.models["pretrain"].score.bits_per_byte, abs=1e-5)
    assert figures["byte_6gram_bits_per_byte"] == pytest.approx(found.baselines.ngram, abs=1e-5)
    preference = found.models["sft"].preference
    assert preference is not None and figures["sft_preference_accuracy_low"] < figures["sft_preference_accuracy"]
    assert preference.pairs == figures["preference_pairs"] > 5


def test_baselines_read_the_training_text_up_to_their_limit(artifacts: dict[str, Artifact], store: Store):
    """Of a corpus larger than `baseline_bytes` every so-manyth row is read, and the amount is stated."""
    inputs = {name: artifacts[name] for name in ("pretrain", "tokens", "corpus")}
    config = EvaluateConfig(prompts=(), resamples=100, baseline_bytes=2000, baseline_order=3)
    found = read_evaluation(build(EVALUATE, config, inputs, store=store)[0].dir)
    assert 500 < found.baselines.train_bytes <= 2600 and found.baselines.ngram_order == 3
    assert found.models["pretrain"].preference is None and found.models["pretrain"].answers == []


def test_evaluation_refuses_what_does_not_belong_together(artifacts: dict[str, Artifact], store: Store):
    """A corpus the tokens were not made from would make the baselines incomparable in silence."""
    other = build(SHARD, ShardConfig(rows="pretrain", seed=5), {"rows": artifacts["clean"]}, store=store)[0]
    inputs = {"pretrain": artifacts["pretrain"], "tokens": artifacts["tokens"], "corpus": other}
    with pytest.raises(DataError, match="corpus that the tokens were made from"):
        build(EVALUATE, EvaluateConfig(prompts=()), inputs, store=store)
    with pytest.raises(ConfigError, match="no model"):
        build(EVALUATE, EvaluateConfig(), {n: artifacts[n] for n in ("tokens", "corpus")}, store=store)


def test_published_model_loads_and_answers(published: Artifact, artifacts: dict[str, Artifact]):
    """What is published is the model, whole, and the wanted one."""
    loaded = load(published.dir, "cpu")
    assert (published.dir / "model.safetensors").read_bytes() == (
        artifacts["dpo"].dir / "model.safetensors"
    ).read_bytes()
    assert loaded.tokenizer.vocab_size == 320
    names = {path.name for path in published.dir.iterdir()}
    assert {"report.json", "report.md", "report.html", "figures", "tokenizer.model", "config.json"} <= names
    assert EVENTS_FILE not in names  # the training's, not the model's


def test_report_counts_every_row(report: Report):
    """Rows in = rows kept + rows dropped, by kind, with the reasons."""
    assert [funnel.kind for funnel in report.funnels] == ["pretrain", "preference"]
    text, pairs = ({(d.rule, d.reason): d.rows for d in funnel.dropped} for funnel in report.funnels)
    assert text == {("check", "bad_json"): 2, ("check", "empty_text"): 1}
    assert pairs.pop(("max_tokens", "too_long")) > 10 and pairs == text  # left out by the tokens stage
    for funnel in report.funnels:
        assert funnel.rows_in == 83 == funnel.kept + sum(d.rows for d in funnel.dropped)


def test_report_says_where_everything_comes_from(report: Report, artifacts: dict[str, Artifact]):
    """Recipe, data, every stage's fingerprint and parents, and how to make it again."""
    assert (report.recipe, report.data, report.published) == ("tiny", "toys <b>", "dpo")
    stages = [row.label for row in report.lineage]
    assert stages[0] == "clean-pretrain" and stages[-1] == "evaluate" and len(stages) == len(artifacts) + 1
    fingerprints = {row.fingerprint for row in report.lineage}
    assert {parent for row in report.lineage for parent in row.inputs.values()} <= fingerprints
    assert report.commands == ["make <all>"]
    assert report.trainings[0].curves[0].metric == "loss" and len(report.trainings[0].curves[0].steps) == 300
    assert [curve.metric for curve in report.trainings[0].curves] == ["loss", "validation_loss"]
    assert "pretrain: it was random" in report.warnings


def test_page_is_whole_safe_and_self_contained(published: Artifact):
    """A model's words must not become markup, and the page must open from a mail attachment, offline."""
    text = (published.dir / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not {"script", "iframe", "link", "object"} & {tag for tag, _ in page.tags}
    assert all(attrs["src"].startswith("data:") for tag, attrs in page.tags if tag == "img")
    assert all(attrs["srcset"].startswith("data:") for tag, attrs in page.tags if tag == "source")
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    assert "<script>alert('x')</script>" in page.words and "‹ESC›[31m" in page.words and "\x1b" not in text
    assert "make <all>" in page.words and "toys <b>" in page.words
    for words in ("bits per byte", "6-gram", "preference accuracy", "What to be careful about", "What it says"):
        assert words in page.words
    for row in read_report(published.dir).lineage:
        assert row.fingerprint in page.words


def test_pictures_are_there_for_light_and_dark(published: Artifact):
    """Each picture is a PNG in both themes, and the page shows both."""
    names = {path.name for path in (published.dir / "figures").iterdir()}
    wanted = {"bits_per_byte", "preference_accuracy", "pretrain_loss", "sft_loss", "dpo_loss"}
    assert names == {f"{name}{theme}.png" for name in wanted for theme in ("", ".dark")}
    assert all((published.dir / "figures" / name).read_bytes().startswith(b"\x89PNG") for name in names)
    tags = [tag for tag, _ in Page((published.dir / "report.html").read_text(encoding="utf-8")).tags]
    assert tags.count("img") == tags.count("source") == len(wanted)


def test_pages_are_a_function_of_the_json(published: Artifact, tmp_path: Path):
    """`report.json` alone gives the same page and pictures, byte for byte."""
    shutil.copy(published.dir / "report.json", tmp_path)
    draw(tmp_path)
    for path in ("report.html", "report.md", "figures/bits_per_byte.png", "figures/sft_loss.dark.png"):
        assert (tmp_path / path).read_bytes() == (published.dir / path).read_bytes(), path


def test_report_without_preference_training_and_data(artifacts: dict[str, Artifact], store: Store, tmp_path: Path):
    """Any part may be absent; the model falls back to the furthest one, which is said."""
    inputs = {name: artifacts[name] for name in ("pretrain", "sft", "tokens", "corpus")}
    evaluation = build(EVALUATE, EvaluateConfig(prompts=(), resamples=100), inputs, store=store)[0]
    few = {"evaluation": evaluation, "pretrain": artifacts["pretrain"], "sft": artifacts["sft"]}
    made = build(PUBLISH, PublishConfig(), few, store=store)[0]
    report = read_report(made.dir)
    assert report.published == "sft" and "sft is published instead" in report.warnings[0]
    assert report.funnels == [] and report.tokenizer == {}
    Page((made.dir / "report.html").read_text(encoding="utf-8"))
    assert not (made.dir / "figures" / "preference_accuracy.png").exists()


def test_a_model_that_was_not_evaluated_is_not_published(
    artifacts: dict[str, Artifact], evaluation: Artifact, store: Store
):
    """A card must not show another model's figures."""
    retrained = build(TRAIN["dpo"], Toy(seed=9), {"tokenizer": artifacts["tokenizer"]}, store=store)[0]
    with pytest.raises(ConfigError, match="did not measure this dpo"):
        build(PUBLISH, PublishConfig(), {"evaluation": evaluation, "dpo": retrained}, store=store)
    with pytest.raises(ConfigError, match="no model"):
        build(PUBLISH, PublishConfig(), {"evaluation": evaluation}, store=store)


def test_markdown_keeps_words_in_their_place(report: Report):
    """An answer with backticks or pipes must not end its fence or its table cell."""
    attack = Answer(prompt=ATTACK, text="````\n# not a heading", tokens=3, ended_by_stop=True, repetition=0.0)
    models = {n: m.replace(answers=[attack]) for n, m in report.evaluation.models.items()}
    text = render_markdown(report.replace(evaluation=report.evaluation.replace(models=models)))
    assert "`````text\n````\n# not a heading\n`````" in text
    heading = next(line for line in text.splitlines() if "alert" in line)
    assert heading.startswith("### ") and r"\<script\>" in heading and r"\|" in heading
    assert cell("a|b\nc") == r"a\|b c" and fenced("x") == "```text\nx\n```"


def test_html_shows_chinese_and_an_empty_answer(report: Report, tmp_path: Path):
    """A model that says nothing is shown as such, and text is UTF-8 throughout."""
    answers = [
        Answer(prompt="你是谁？", text="", tokens=0, ended_by_stop=True, repetition=0.0),
        Answer(prompt="1+1", text="我是 MiniMind", tokens=4, ended_by_stop=False, repetition=0.0),
    ]
    models = {n: m.replace(answers=answers) for n, m in report.evaluation.models.items()}
    words = Page(render_html(report.replace(evaluation=report.evaluation.replace(models=models)), tmp_path)).words
    assert "你是谁？" in words and "(nothing)" in words and "我是 MiniMind […]" in words


def test_findings_are_about_what_is_wrong_and_nothing_else(evaluation: Artifact):
    """Each threshold fires on its own; a good model leaves the list empty."""
    found = read_evaluation(evaluation.dir)
    assert "Worse than counting" in findings(found)[0] and "pretrain (" in findings(found)[0]

    def changed(name: str, **changes: Any) -> list[str]:
        return findings(good.replace(models={**good.models, name: good.models[name].replace(**changes)}))

    good = _good(found)
    assert findings(good) == []
    score, preference = good.models["dpo"].score, good.models["dpo"].preference
    assert preference is not None
    assert "lost 3.0%" in changed("dpo", score=score.replace(bits_per_byte=1.03))[0]
    worse = changed("sft", score=score.replace(bits_per_byte=1.8))[0]
    assert "sft needs 80% more bits per byte of plain text than pretrain" in worse
    assert "needed by pretrain (1.800)." in changed("pretrain", score=score.replace(bits_per_byte=1.8))[0]
    near = preference.replace(accuracy=0.52, interval=Interval(low=0.47, high=0.57))
    assert "that may be chance" in changed("dpo", preference=near)[0]
    loop = Answer(prompt="?", text="a a a", tokens=9, ended_by_stop=True, repetition=0.9)
    assert "said before by sft (90%)." in changed("sft", answers=[loop])[0]
    assert "cut off: sft (0%)." in changed("sft", answers=[loop.replace(repetition=0.0, ended_by_stop=False)])[0]
    leak = good.replace(baselines=good.baselines.replace(xz_after_train=1.2))
    assert "repeats long passages" in findings(leak)[0]
    few = {n: m.replace(preference=preference.replace(pairs=12)) for n, m in good.models.items()}
    assert "12 pairs only" in findings(good.replace(models=few))[0]


def _good(found: Evaluation) -> Evaluation:
    """An evaluation with nothing to warn of."""
    dpo = found.models["dpo"]
    assert dpo.preference and dpo.reward
    preference = dpo.preference.replace(pairs=300, accuracy=0.8, interval=Interval(low=0.75, high=0.84))
    reward = dpo.reward.replace(accuracy=0.8, interval=Interval(low=0.75, high=0.84))
    models = {
        name: model.replace(
            score=model.score.replace(bits_per_byte=1.0), preference=preference, reward=reward, answers=[]
        )
        for name, model in found.models.items()
    }
    return found.replace(models=models, baselines=found.baselines.replace(ngram=1.7, xz_after_train=1.9))


def test_damaged_or_missing_results_are_named(tmp_path: Path):
    """The remedy is in the message: which stage to run again."""
    with pytest.raises(MissingError, match="run the stage evaluate"):
        read_evaluation(tmp_path)
    with pytest.raises(MissingError, match="run the stage publish"):
        read_report(tmp_path)
    (tmp_path / "report.json").write_text(json.dumps({"name": "x"}), encoding="utf-8")
    with pytest.raises(ArtifactError, match="damaged, or of another version .*run the stage publish again"):
        read_report(tmp_path)


def test_figures_are_readable():
    """Numbers as people write them."""
    assert [shown(v) for v in (None, 12345678, 2.1234567, 0.00123456, 12345.678, "cpu", 3.0)] == [
        "–",
        "12,345,678",
        "2.123",
        "0.001235",
        "12,346",
        "cpu",
        "3",
    ]
    assert [duration(s) for s in (0.44, 12.2, 59.7, 200, 7500)] == [
        "0.4 s",
        "12 s",
        "1 min 00 s",
        "3 min 20 s",
        "2 h 05 min",
    ]
