"""Evaluate and publish, from corpus to page, with models of a few thousand random weights."""

import html.parser
import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from minimind import runtime
from minimind.artifact import Artifact, FileEntry, Store, Summary
from minimind.config import Config
from minimind.data.documents import RowKind, check_row
from minimind.data.dropped import DropLog
from minimind.data.sharding import SHARD, ShardConfig
from minimind.data.shards import write_rows
from minimind.data.wording import cell, duration, percent, visible
from minimind.errors import ArtifactError, ConfigError, MissingError
from minimind.evaluate.card.answers import failed_answers_of
from minimind.evaluate.card.card import FailedAnswer, MaskView, Piece, Report, read_report
from minimind.evaluate.card.collect import collect, commands_of
from minimind.evaluate.card.data import mask_of
from minimind.evaluate.card.headlines import verdict_on
from minimind.evaluate.card.page import fenced, render_html, render_markdown, shown
from minimind.evaluate.card.report import PUBLISH, draw
from minimind.evaluate.card.tables import task_tables
from minimind.evaluate.card.wording import amount, in_short
from minimind.evaluate.config import EvaluateConfig, GateConfig, PublishConfig
from minimind.evaluate.results import METRICS, Answer, Figure, Interval, Leak, TaskResult, read_evaluation
from minimind.evaluate.stage import EVALUATE
from minimind.events import EVENTS_FILE, EventWriter
from minimind.infer.generate import load
from minimind.model.config import ModelConfig
from minimind.model.transformer import Transformer
from minimind.model.weights import save_model
from minimind.runtime import file_sha256
from minimind.stage import Stage, build
from minimind.tokens.token_set import INFO_FILE, TokensInfo
from minimind.tokens.tokenizer import Tokenizer
from minimind.tokens.tokenizer_training import TOKENIZER, TokenizerConfig
from minimind.tokens.tokenizing import TOKENS, TokensConfig

ATTACK = "</pre><script>alert('x')</script><img src=x onerror=alert(1)> | `tick` ``` ‹ \x1b[31m"
PROMPTS = ("Who are you?", ATTACK)
NOUNS = ("list", "tuple", "queue", "stack", "graph", "table", "string", "number", "buffer", "stream")
CONTEXT = {"recipe": "tiny", "data": "toys <b>", "pipeline": "full-pipeline"}
DATA = ("tokenizer", "tokens", "tokens_chat", "tokens_preference", "corpus", "corpus_chat", "corpus_preference")
CORPORA = ("corpus", "corpus_chat", "corpus_preference")
MODELS = ("pretrain", "sft", "dpo")
HAND_MADE = 0.75
"""Rows of the first of two sources."""


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
        values = {
            "pretrain": {"text": text},
            "chat": {"conversations": turns},
            "preference": {"chosen": turns, "rejected": wrong},
        }
        source = "toys" if line <= 80 * HAND_MADE else "others"
        yield {**check_row(kind, values[kind]), "source": source, "line": line, "group": str(line)}


def clean_toys(config: Toy, inputs: Mapping[str, Artifact], out_dir: Path) -> Summary:
    """Rows as the stage `clean` leaves them, three of them dropped."""
    write_rows(out_dir / "rows", config.rows, toy_rows(config.rows))
    with DropLog(out_dir) as log:
        for line, reason in ((1, "bad_json"), (2, "empty_text"), (3, "bad_json")):
            log.add(source="toys", file="toys.jsonl", line=line, rule="check", reason=reason, detail="", text="{")
    return Summary(figures={"rows": 80})


def train_toy(config: Toy, inputs: Mapping[str, Artifact], out_dir: Path) -> Summary:
    """A model directory with random weights, a loss curve, and looks at held-out rows."""
    tokenizer = Tokenizer.load(inputs["tokenizer"].dir)
    shape = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "ffn_size": 32, "max_positions": 128}
    save_model(out_dir, Transformer(ModelConfig(vocab_size=tokenizer.vocab_size, **shape), seed=config.seed))
    tokenizer.copy_to(out_dir)
    with EventWriter(out_dir / EVENTS_FILE) as events:
        for step in range(1, 700):
            looks = {
                "validation_loss": 6 - step / 200,
                "validation_bits_per_byte": 4 - step / 400,
                "validation_cloze_accuracy": 0.25 + step / 1400,
                "validation_answer_repetition": 0.9 - step / 1000,
                "validation_answer_tokens": 31.0,
            }
            metrics = {"loss": 6 - step / 180 if step != 5 else float("nan"), "lr": 1e-3}
            events.step(step, 700, metrics | (looks if step % 100 == 0 else {}))
    figures = {"train_loss": 2.1234567, "tokens": 12345678, "device": "cpu", "loss_spikes": 0}
    return Summary(figures=figures, warnings=["it was random"])


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

    kinds: tuple[tuple[RowKind, str], ...] = (("pretrain", ""), ("chat", "_chat"), ("preference", "_preference"))
    for kind, suffix in kinds:
        run(f"clean{suffix}", CLEAN_TOYS, Toy(rows=kind))
        run(f"corpus{suffix}", SHARD, ShardConfig(rows=kind, validation_fraction=0.2), rows=f"clean{suffix}")
    run("tokenizer", TOKENIZER, TokenizerConfig(vocab_size=320), corpus="corpus")
    for kind, suffix in kinds:
        config = TokensConfig(rows=kind, **({"max_tokens": 50} if kind == "preference" else {}))
        run(f"tokens{suffix}", TOKENS, config, corpus=f"corpus{suffix}", tokenizer="tokenizer")
    run("pretrain", TRAIN["pretrain"], Toy(seed=1), tokenizer="tokenizer")
    run("sft", TRAIN["sft"], Toy(seed=2), tokenizer="tokenizer", model="pretrain")
    run("dpo", TRAIN["dpo"], Toy(seed=3), tokenizer="tokenizer", model="sft")
    return made


@pytest.fixture(scope="module")
def evaluation(artifacts: dict[str, Artifact], store: Store) -> Artifact:
    config = EvaluateConfig(
        prompts=PROMPTS, answer_tokens=6, max_documents=9, resamples=100, built_in=("instructions",)
    )
    inputs = {name: artifacts[name] for name in (*MODELS, *CORPORA)}
    return build(EVALUATE, config, inputs, store=store, context=CONTEXT)[0]


@pytest.fixture(scope="module")
def published(artifacts: dict[str, Artifact], evaluation: Artifact, store: Store) -> Artifact:
    inputs = {**artifacts, "evaluation": evaluation}
    config = PublishConfig(commands=("make <all>",), price_per_hour=3600.0)
    return build(PUBLISH, config, inputs, store=store, context=CONTEXT)[0]


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


def words_of(report: Report, directory: Path) -> str:
    """What the page of a report shows."""
    return Page(render_html(report, directory)).words


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every key, string and number of a JSON value, with where it stands."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
            if path and path[-1] in ("tasks", "models", "libraries", "figures", "skipped", "source", "language"):
                yield "/".join(path), key
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from leaves(inner, (*path, str(number)))
    elif value is not None and value != "":
        yield "/".join(path), value


NOT_WORDS = re.compile(
    r"/(metric|kind|created_at|ended_by_stop|passed|trained|special)$|^created_at$"  # drawn or put in other words
    r"|^trainings/\d+/(curves|looks)/"  # in the pictures
    r"|^lineage/\d+/(?!label|fingerprint|seconds|inputs)"  # figures are in the picture's tooltips
)


def shown_somehow(value: Any, words: str) -> bool:
    """Whether a leaf of the JSON stands in a page, in one of the ways in which figures are written."""
    if isinstance(value, str):
        value = METRICS[value].title if value in METRICS else value
        return visible(value) in words or visible(value).replace("_", " ") in words
    ways = (f"{value:.3f}", f"{value:.2f}", f"{value:+.2f}", f"{value:.1f}", f"{100 * value:.0f}", f"{value:,.2f}")
    return any(way in words for way in (shown(value), percent(value), duration(value), amount(value), *ways))


def without_markup(text: str) -> str:
    """Markdown as a reader sees it."""
    return re.sub(r"\\([\\`*_\[\]<>|#~&])", r"\1", text)


def test_everything_that_the_json_says_is_on_both_pages(published: Artifact, report: Report):
    """A figure that nobody sees need not be collected, and one that only a page knows cannot be checked."""
    value = json.loads((published.dir / "report.json").read_text(encoding="utf-8"))
    markdown = without_markup((published.dir / "report.md").read_text(encoding="utf-8"))
    markdown = re.sub(r"[⟦⟧]|\*\*", "", markdown)
    for words in (words_of(report, published.dir), markdown):
        flat = " ".join(words.split())
        lost = [
            (path, leaf)
            for path, leaf in leaves(value)
            if not NOT_WORDS.search(path) and not (shown_somehow(leaf, words) or _on_one_line(leaf) in flat)
        ]
        assert lost == []


def _on_one_line(leaf: Any) -> str:
    return " ".join(visible(str(leaf)).replace("`", "").split())


def test_published_model_loads_and_answers(published: Artifact, artifacts: dict[str, Artifact]):
    """What is published is the model, whole, and the wanted one."""
    loaded = load(published.dir, "cpu")
    weights = "model.safetensors"
    assert (published.dir / weights).read_bytes() == (artifacts["dpo"].dir / weights).read_bytes()
    assert loaded.tokenizer.vocab_size == 320
    names = {path.name for path in published.dir.iterdir()}
    assert {"report.json", "report.md", "report.html", "figures", "tokenizer.model", "config.json"} <= names
    assert EVENTS_FILE not in names  # the training's, not the model's


def test_report_counts_every_row(report: Report):
    """Rows in = rows kept + rows dropped, by kind, with the reasons."""
    assert [funnel.kind for funnel in report.funnels] == ["pretrain", "chat", "preference"]
    text, _, pairs = ({(d.rule, d.reason): d.rows for d in funnel.dropped} for funnel in report.funnels)
    assert text == {("check", "bad_json"): 2, ("check", "empty_text"): 1}
    assert pairs.pop(("max_tokens", "too_long")) > 10 and pairs == text  # left out by the tokens stage
    for funnel in report.funnels:
        assert funnel.rows_in == 83 == funnel.kept + sum(d.rows for d in funnel.dropped)


def test_mixtures_are_all_of_the_trained_tokens(report: Report, artifacts: dict[str, Artifact]):
    """What each source gives adds up to what the trainings get."""
    assert [mixture.kind for mixture in report.mixtures] == ["pretrain", "chat", "preference"]
    for mixture, name in zip(report.mixtures, ("tokens", "tokens_chat", "tokens_preference"), strict=True):
        info = TokensInfo.read_json(artifacts[name].dir / "train" / INFO_FILE, remedy="")
        assert sum(share.share for share in mixture.sources) == pytest.approx(1)
        assert sum(share.trained_tokens for share in mixture.sources) == info.trained_tokens
        assert sum(share.rows for share in mixture.sources) == report_rows(report, mixture.kind)
        assert [share.source for share in mixture.sources] == ["toys", "others"]


def report_rows(report: Report, kind: str) -> int:
    return next(funnel.train_rows for funnel in report.funnels if funnel.kind == kind)


def test_report_says_where_everything_comes_from(report: Report, artifacts: dict[str, Artifact]):
    """Recipe, data, who ran it, every stage's fingerprint and parents, and how to make it again."""
    assert (report.recipe, report.data, report.pipeline, report.published) == (
        "tiny",
        "toys <b>",
        "full-pipeline",
        "dpo",
    )
    assert report.user == runtime.host().get("user", "–")
    stages = [row.label for row in report.lineage]
    assert stages[0] == "clean-pretrain" and stages[-1] == "evaluate" and len(stages) == len(artifacts) + 1
    fingerprints = {row.fingerprint for row in report.lineage}
    assert {parent for row in report.lineage for parent in row.inputs.values()} <= fingerprints
    assert report.commands == ["make <all>"]
    curves = report.trainings[0].curves
    assert [curve.metric for curve in curves] == ["loss", "validation_loss"] and len(curves[0].steps) == 300
    looks = [curve.metric.removeprefix("validation_") for curve in report.trainings[0].looks]
    assert looks == ["answer_repetition", "bits_per_byte", "cloze_accuracy"]  # a number of tokens has no place there
    assert "pretrain: it was random" in report.warnings
    assert not [warning for warning in report.warnings if warning.startswith(("Overfit", "Loss spikes", "Imbalance"))]


def test_commands_are_those_that_ran(evaluation: Artifact):
    """A card is worth what can be made again from it: the commit, the recipe, the data and what was set otherwise."""
    context = {**CONTEXT, "pipeline": "full-pipeline", "options": "--recipe 'my recipe' -o sft.lr=3e-4"}
    made = Artifact(evaluation.dir, evaluation.manifest.replace(context=context, code_commit="abc+changes"))
    assert commands_of(made) == [
        "git checkout abc",
        "minimind run full-pipeline --recipe 'my recipe' -o sft.lr=3e-4",
    ]
    assert commands_of(Artifact(evaluation.dir, evaluation.manifest.replace(context={}))) == []


def entries_of(directory: Path) -> list[FileEntry]:
    """What a manifest says of the summary there."""
    path = directory / "summary.json"
    return [FileEntry(path=path.name, size=path.stat().st_size, sha256=file_sha256(path))]


def test_cost_counts_cores_gpus_and_money(artifacts: dict[str, Artifact], evaluation: Artifact, tmp_path: Path):
    """An hour of four GPUs is no hour of two cores."""
    (tmp_path / "gpu").mkdir()
    shutil.copytree(artifacts["dpo"].dir, tmp_path / "gpu", dirs_exist_ok=True)
    on_gpus = Summary(figures={"device": "cuda", "processes": 4})
    (tmp_path / "gpu" / "summary.json").write_text(on_gpus.model_dump_json(), encoding="utf-8")
    took = {"seconds": 3600.0, "host": {"cores": 2, "name": "m", "system": "s"}}
    timed = {
        name: Artifact(directory, one.manifest.replace(files=entries_of(directory), **took))
        for name, one, directory in (
            ("evaluation", evaluation, evaluation.dir),
            ("dpo", artifacts["dpo"], tmp_path / "gpu"),
        )
    }
    found = collect(PublishConfig(price_per_hour=1.5), timed, "dpo", warnings=[])
    assert (found.cost.core_hours, found.cost.gpu_hours, found.cost.money) == (2.0, 4.0, 3.0)
    assert found.host == "m (2 cores, s)" and found.user == "–"
    words = words_of(found, tmp_path)
    assert "2 core-hours, 4 GPU-hours; 3.00 at the given price of an hour" in words


def test_the_gate_says_what_holds_the_model_up(
    artifacts: dict[str, Artifact], evaluation: Artifact, report: Report, tmp_path: Path
):
    """Random weights prefer nothing: the rule is told with its reason, and a gate that is off rules nothing."""
    assert {ruling.rule for ruling in report.gate} >= {"preference_above_chance", "max_repetition"}
    inputs = {**artifacts, "evaluation": evaluation}
    wanted = PublishConfig(gate=GateConfig(at_least={"instructions_passed": 1.0}))
    found = collect(wanted, inputs, "dpo", warnings=[])
    (ruling,) = [one for one in found.gate if "instructions_passed" in one.rule + one.detail]
    assert ruling.passed is False
    page = words_of(found, tmp_path)
    assert "rules not met" in page and ruling.detail in page
    (off,) = collect(PublishConfig(gate=GateConfig(enabled=False)), inputs, "dpo", warnings=[]).gate
    assert (off.rule, off.passed) == ("enabled", None)


def test_tables_have_models_chance_and_ngram_side_by_side(report: Report):
    """The best of a line is marked where there is one, and the breakdown has every group."""
    tables = {table.name: table for table in task_tables(report.evaluation)}
    assert list(tables) == ["text", "chat", "preference", "open_ended", "instructions"]
    text = tables["text"].leading
    values = [m.bits_per_byte.value for m in report.evaluation.models.values() if m.bits_per_byte]
    assert [cell.best for cell in text.cells if cell] == [value == min(values) for value in values]
    assert text.ngram is not None and text.n == "9" and text.chance == "8.000"
    assert {row.title for row in tables["text"].groups["source"]} == {"toys", "others"}
    tokens = next(row for row in tables["instructions"].rows if row.title == "tokens per answer")
    assert not any(cell.best for cell in tokens.cells if cell)


def test_figures_on_unseen_items_stand_below_those_on_all(report: Report, tmp_path: Path):
    """Where items leaked, both are shown, the items are named with where they stood, and others are counted."""
    leaked = with_leaks(report, count=30)
    rows = next(table for table in task_tables(leaked.evaluation) if table.name == "preference").rows
    assert [row.title for row in rows[:2]] == ["accuracy per token", "accuracy per token, of unseen items"]
    assert rows[1].cells[0] is None and rows[1].cells[2] is not None and rows[1].cells[2].value == "40.0 %"
    for words in (words_of(leaked, tmp_path), render_markdown(leaked)):
        assert "accuracy per token, of unseen items" in words and "30 of 60" in words
        assert "item-0" in words and "item-19" in words and "item-20" not in words
        assert "not here any more" in words


def with_leaks(report: Report, *, count: int) -> Report:
    """The report, had dpo seen half of the pairs."""
    score = Figure(value=0.4, interval=Interval(low=0.3, high=0.5), n=30)
    dpo = report.evaluation.models["dpo"]
    leading = "accuracy_per_token"
    task = TaskResult(figures={leading: score.replace(n=60)}, clean={leading: score}, leaked=count)
    leaks = [Leak(task="preference", item=f"item-{at}", share=0.9, where=f"sft document {at}") for at in range(count)]
    changed = dpo.replace(
        tasks={**dpo.tasks, "preference": task}, leaks=leaks, unchecked=["pretrain 12: not here any more"]
    )
    models = {**report.evaluation.models, "dpo": changed}
    return report.replace(evaluation=report.evaluation.replace(models=models))


def test_the_verdict_on_the_loss_is_one_of_three(report: Report):
    """Normal is what counting bytes does not reach; within its interval nobody can say."""
    assert report.verdict.startswith("Is the loss normal? No: pretrain needs")  # its weights are random
    text = report.evaluation.tasks["text"]
    own = report.evaluation.models["pretrain"].bits_per_byte
    assert own is not None

    def against(value: float) -> str:
        ngram = Figure(value=value, interval=Interval(low=value - 0.1, high=value + 0.1), n=9)
        tasks = {**report.evaluation.tasks, "text": text.replace(ngram={"bits_per_byte": ngram})}
        return verdict_on(report.evaluation.replace(tasks=tasks))

    assert "Yes: pretrain needs" in against(own.value * 1.5) and "33% less" in against(own.value * 1.5)
    assert "Hardly" in against(own.value + 0.05)
    assert verdict_on(report.evaluation.replace(baselines=None)) == ""


def test_a_chat_is_shown_with_what_is_learnt_of_it(report: Report, published: Artifact):
    """The picture of the loss mask: the assistant's words and the end of its turn, nothing else."""
    assert report.mask is not None and report.mask.title.startswith("a held-out chat: document ")
    learnt = "".join(piece.text for piece in report.mask.pieces if piece.trained)
    assert re.fullmatch(r"A \w+\.<\|im_end\|>", learnt)
    page = Page((published.dir / "report.html").read_text(encoding="utf-8"))
    assert "What is item" in page.words
    assert f"⟦{learnt}⟧" in (published.dir / "report.md").read_text(encoding="utf-8")


def test_a_chat_of_the_training_is_shown_where_none_is_held_out(
    artifacts: dict[str, Artifact], store: Store, tmp_path: Path
):
    """And none where nobody knows any more what the tokens spell."""
    whole = build(
        SHARD, ShardConfig(rows="chat", validation_fraction=0), {"rows": artifacts["clean_chat"]}, store=store
    )
    inputs = {"corpus": whole[0], "tokenizer": artifacts["tokenizer"]}
    tokens = build(TOKENS, TokensConfig(rows="chat"), inputs, store=store)[0]
    found = mask_of(tokens)
    assert found is not None and found.title.startswith("a chat of the training: document ")
    copied = tmp_path / "artifacts" / "tokens" / tokens.fingerprint
    shutil.copytree(tokens.dir, copied)
    assert mask_of(Artifact(copied, tokens.manifest)) is None


def test_a_user_without_a_name_is_no_error(monkeypatch: pytest.MonkeyPatch):
    """In a container the user's number may have no entry; the manifest then names nobody."""
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda number: {}[number])
    assert "user" not in runtime.host()


def test_failed_answers_are_a_few_of_each_model_and_set(report: Report, evaluation: Artifact):
    """Enough to see what goes wrong; all are in the evaluation."""
    lines = [json.loads(line) for line in (evaluation.dir / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    for name in MODELS:
        failed = [line["item"] for line in lines if line["model"] == name and line["failures"]]
        assert [one.item for one in report.failed_answers if one.model == name] == failed[:5] and len(failed) > 5
    (evaluation.dir / "answers.jsonl").rename(evaluation.dir / "away")
    with pytest.raises(MissingError, match="run the stage evaluate again"):
        failed_answers_of(evaluation.dir)
    (evaluation.dir / "away").rename(evaluation.dir / "answers.jsonl")


def test_page_is_whole_safe_and_self_contained(published: Artifact):
    """A model's words must not become markup, and the page must open from a mail attachment, offline."""
    text = (published.dir / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not {"script", "iframe", "link", "object"} & {tag for tag, _ in page.tags}
    assert all(attrs["src"].startswith("data:") for tag, attrs in page.tags if tag == "img")
    assert all(attrs["srcset"].startswith("data:") for tag, attrs in page.tags if tag == "source")
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    anchors = {attrs.get("id") for _, attrs in page.tags}
    assert all(attrs["href"].removeprefix("#") in anchors for tag, attrs in page.tags if tag == "a")
    assert re.findall(r"https?://[^\"' ]+", text) == ["http://www.w3.org/2000/svg"]
    assert "<script>alert('x')</script>" in page.words and "‹ESC›[31m" in page.words and "\x1b" not in text
    assert "make <all>" in page.words and "toys <b>" in page.words
    for row in read_report(published.dir).lineage:
        assert row.fingerprint in page.words


def hostile(report: Report) -> Report:
    """The report with foreign words in every place that may have some."""
    attacked = with_leaks(report, count=3)
    name = f"{ATTACK} task"
    tasks = {
        **attacked.evaluation.tasks,
        name: attacked.evaluation.tasks["text"].replace(about=ATTACK, skipped={ATTACK: 2}),
    }
    models = {}
    for model, result in attacked.evaluation.models.items():
        own = result.tasks["text"]
        one = {ATTACK: own.figures[own.leading], "other": own.figures[own.leading]}
        models[model] = result.replace(
            tasks={**result.tasks, name: own.replace(groups={"source": one})},
            leaks=[leak.replace(item=ATTACK + str(at), where=ATTACK) for at, leak in enumerate(result.leaks)],
            unchecked=[ATTACK],
            answers=[answer.replace(text=ATTACK) for answer in result.answers],
        )
    failed = FailedAnswer(task=name, model="dpo", item=ATTACK, prompt=ATTACK, answer=ATTACK, failures=[ATTACK])
    return attacked.replace(
        **dict.fromkeys(("name", "recipe", "data", "pipeline", "user", "host", "commit", "verdict"), ATTACK),
        evaluation=attacked.evaluation.replace(tasks=tasks, models=models),
        headlines=[headline.replace(label=ATTACK, note=ATTACK) for headline in attacked.headlines],
        warnings=[ATTACK, f"{ATTACK[:20]}: {ATTACK}", f"`{ATTACK}`"],
        gate=[ruling.replace(detail=ATTACK) for ruling in attacked.gate],
        failed_answers=[failed],
        funnels=[
            one.replace(dropped=[d.replace(rule=ATTACK, reason=ATTACK) for d in one.dropped])
            for one in attacked.funnels
        ],
        mixtures=[
            one.replace(sources=[share.replace(source=ATTACK) for share in one.sources]) for one in attacked.mixtures
        ],
        mask=MaskView(title=ATTACK, pieces=[Piece(text=ATTACK, trained=True), Piece(text=ATTACK, trained=False)]),
        tokenizer={ATTACK: ATTACK},
        commands=[ATTACK],
    )


def test_foreign_words_are_inert_wherever_they_stand(report: Report, tmp_path: Path):
    """Sources, items, file names, answers and warnings are other people's words too."""
    attacked = hostile(report)
    text = render_html(attacked, tmp_path)
    page = Page(text)
    assert "\x1b" not in text and page.words.count("<script>alert('x')</script>") > 40
    assert {tag for tag, _ in page.tags} <= {tag for tag, _ in Page(render_html(report, tmp_path)).tags} | {
        "code",
        "br",
    }
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    fences = 0
    for line in render_markdown(attacked).splitlines():
        if re.match(r"`{3,}", line):
            fences += 1
        assert fences % 2 or "<script>" not in line.replace("\\<", ""), line
    assert fences % 2 == 0 and fences > 4


def test_pictures_are_there_for_light_and_dark(published: Artifact):
    """Each picture is a PNG in both themes, and the page shows both."""
    names = {path.name for path in (published.dir / "figures").iterdir()}
    wanted = {"bits_per_byte", "chat_nats_per_token", "preference_accuracy_per_token", "instructions_passed"}
    wanted |= {"open_ended_same"}
    wanted |= {f"{stage}_{what}" for stage in MODELS for what in ("loss", "looks")}
    assert names == {f"{name}{theme}.png" for name in wanted for theme in ("", ".dark")}
    assert all((published.dir / "figures" / name).read_bytes().startswith(b"\x89PNG") for name in names)
    tags = [tag for tag, _ in Page((published.dir / "report.html").read_text(encoding="utf-8")).tags]
    assert tags.count("img") == tags.count("source") == len(wanted)
    links = re.findall(r"\(figures/(.+?)\)", (published.dir / "report.md").read_text(encoding="utf-8"))
    assert set(links) == {f"{name}.png" for name in wanted}


@pytest.fixture(scope="module")
def alone(artifacts: dict[str, Artifact], store: Store) -> Artifact:
    """The card of a training that nothing followed, without its data."""
    inputs = {name: artifacts[name] for name in ("pretrain", "corpus")}
    config = EvaluateConfig(prompts=(), resamples=100, built_in=())
    evaluated = build(EVALUATE, config, inputs, store=store)[0]
    few = {"evaluation": evaluated, "pretrain": artifacts["pretrain"]}
    return build(PUBLISH, PublishConfig(), few, store=store)[0]


def test_pages_are_a_function_of_the_json(alone: Artifact, tmp_path: Path):
    """`report.json` alone gives the same page and pictures, byte for byte."""
    shutil.copy(alone.dir / "report.json", tmp_path)
    draw(tmp_path)
    for path in ("report.html", "report.md", "figures/bits_per_byte.png", "figures/pretrain_looks.dark.png"):
        assert (tmp_path / path).read_bytes() == (alone.dir / path).read_bytes(), path


def test_a_card_of_a_training_alone(alone: Artifact):
    """Any part may be absent, chats and data too; the model falls back to the furthest one, which is said."""
    report = read_report(alone.dir)
    assert report.published == "pretrain" and "pretrain is published instead" in report.warnings[0]
    assert report.funnels == report.mixtures == report.failed_answers == [] and report.tokenizer == {}
    assert report.mask is None and report.cost.money is None
    page = Page((alone.dir / "report.html").read_text(encoding="utf-8"))
    for words in ("What it says", "What it gets right", "What it was trained on", "The tokenizer"):
        assert words not in page.words
    assert "The artifacts do not say which command made them" in page.words
    assert not (alone.dir / "figures" / "preference_accuracy_per_token.png").exists()


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
    words = words_of(report.replace(evaluation=report.evaluation.replace(models=models)), tmp_path)
    assert "你是谁？" in words and "(nothing)" in words and "我是 MiniMind […]" in words


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
    assert [in_short(s) for s in (12.2, 90, 4000, 90_000)] == ["12 s", "1.5 min", "1.1 h", "1.0 days"]
    assert [amount(hours) for hours in (0.0123, 1.234, 12.34, 1234.5)] == ["0.012", "1.2", "12.3", "1,234"]
