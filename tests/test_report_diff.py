"""Two models side by side: what is called better, worse or undecided, and how it is shown."""

import html.parser
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import Command

from minimind.artifact import Artifact, Inputs, Store, Summary
from minimind.config import Config
from minimind.errors import ConfigError, MissingError
from minimind.evaluate.card.difference import Difference, Row, difference, render_html
from minimind.evaluate.intervals import Resampling, Values
from minimind.evaluate.material import Facts
from minimind.evaluate.measuring import Scores
from minimind.evaluate.perplexity import Texts
from minimind.evaluate.results import EVALUATION_FILE, Answer, Evaluation, ModelResult, RewardScore, Task, TaskResult
from minimind.evaluate.table import ITEMS_FILE, write_items
from minimind.runtime import write_json
from minimind.stage import Stage, build

ATTACK = "</div><script>alert('x')</script> \x1b[31m"
TASKS = {"bits_per_byte": "text", "nats_per_token": "chat", "passed": "arithmetic", "margin": "preference"}
"""Metric → the task it is planted in."""


class Planted(Config):
    """What models got for each item: model → metric → values; and the answers of all of them."""

    values: dict[str, dict[str, list[float]]] = {}
    first: int = 0
    """The number of the first item."""
    weight: float = 1.0
    repetition: float = 0.0
    reward: str | None = None
    lr: float = 1e-3


def plant(config: Planted, inputs: Inputs, out_dir: Path) -> Summary:
    """An evaluation of the planted values, with their intervals."""
    materials = {
        metric: Texts(task, "planted", [Facts(f"item {config.first + n}") for n in range(count)], ["text"] * count)
        for metric, task in TASKS.items()
        if (count := max((len(one.get(metric, ())) for one in config.values.values()), default=0))
    }
    scores, models = {}, {}
    for name, by_metric in config.values.items():
        measured = {
            TASKS[metric]: {metric: Values(np.array(values), np.full(len(values), config.weight))}
            for metric, values in by_metric.items()
        }
        scores[name] = Scores(measured)
        reward = config.reward and name == "dpo"
        models[name] = ModelResult(
            fingerprint=inputs[name].fingerprint if name in inputs else name,
            parameters=1000,
            context=64,
            tasks={
                task: TaskResult(figures={metric: Resampling().figure(one) for metric, one in figures.items()})
                for task, figures in measured.items()
            },
            reward=RewardScore(reference="sft", accuracy=0.5, interval={"low": 0.4, "high": 0.6}, margin=0.0)
            if reward
            else None,
            answers=[
                Answer(
                    prompt=f"Prompt {n}",
                    text=ATTACK if n else "",
                    tokens=4,
                    ended_by_stop=n > 3,
                    repetition=config.repetition + n / 100,
                )
                for n in range(12)
            ],
        )
    for name in scores:  # every material is there of every model
        for metric, task in TASKS.items():
            if metric in materials and task not in scores[name].tasks:
                scores[name].tasks[task] = {}
    tasks = {one.name: Task(kind="text", items=len(one.facts), about="planted") for one in materials.values()}
    evaluation = Evaluation(tasks=tasks, models=models)
    write_json(out_dir / EVALUATION_FILE, evaluation.model_dump(mode="json"))
    write_items(out_dir / ITEMS_FILE, list(materials.values()), scores, {})
    return Summary()


def hand_out(config: Planted, inputs: Inputs, out_dir: Path) -> Summary:
    """A published model without its files."""
    return Summary(figures={"model": next(name for name in inputs if name != "evaluation")})


def train(config: Planted, inputs: Inputs, out_dir: Path) -> Summary:
    """A model without its files."""
    return Summary()


MODELS = ("pretrain", "sft", "dpo")
EVALUATE = Stage("evaluate", plant, optional_inputs=MODELS)
PUBLISH = Stage("publish", hand_out, inputs=("evaluation",), optional_inputs=MODELS)
TRAIN = {name: Stage(name, train) for name in MODELS}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


@pytest.fixture(autouse=True)
def _here(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINIMIND_HOME", str(store.root.parent))
    monkeypatch.setenv("COLUMNS", "200")


def evaluated(store: Store, config: Planted, **models: Artifact) -> Artifact:
    return build(EVALUATE, config, models, store=store)[0]


def compared(store: Store, before: Planted, after: Planted) -> list[Row]:
    (pair,) = difference(evaluated(store, before), evaluated(store, after)).pairs
    return pair.rows


def words(rows: list[Row]) -> dict[str, str]:
    return {f"{row.task} {row.metric}": row.word for row in rows}


def around(value: float, count: int = 40, *, by: float = 0.4) -> list[float]:
    """Values that differ much from item to item."""
    return [value + by * ((number % 7) - 3) for number in range(count)]


def test_what_is_sure_on_the_same_items_is_said_and_which_way_is_better(store: Store):
    """The items differ more than the models do: only paired is such a difference seen; a lower loss is better."""
    old = {"bits_per_byte": around(2.0), "nats_per_token": around(3.0), "passed": [0, 1] * 20}
    new = {"bits_per_byte": around(1.9), "nats_per_token": around(3.1), "passed": [0, 1] * 20}
    before, after = Planted(values={"sft": old}), Planted(values={"sft": new})
    rows = compared(store, before, after)
    assert words(rows)["text bits_per_byte"] == "better" and words(rows)["chat nats_per_token"] == "worse"
    assert words(rows)["arithmetic passed"] == "cannot be told apart"
    found = rows[0]
    assert found.difference and found.before and found.after
    assert found.difference.value == pytest.approx(-0.1) and found.difference.interval.high < -0.09
    assert found.before.interval.high > found.after.value  # by their own intervals nobody could tell
    higher = Planted(values={"sft": {"passed": [1, 1] * 20}})
    assert words(compared(store, before, higher))["arithmetic passed"] == "better"


def test_a_difference_that_may_be_chance_is_not_called_one(store: Store):
    """One that is right half the time more, the other half of the time less."""
    before = Planted(values={"sft": {"passed": [0, 0, 1, 1] * 10}})
    after = Planted(values={"sft": {"passed": [0, 1, 0, 1] * 9 + [1, 1, 1, 1]}})
    (row,) = [row for row in compared(store, before, after) if row.metric == "passed"]
    assert row.word == "cannot be told apart" and row.difference and row.difference.value > 0


@pytest.mark.parametrize("other", [{"first": 1000}, {"first": 25}, {"weight": 2.0}])
def test_figures_on_other_items_are_shown_and_not_compared(store: Store, other: dict[str, float]):
    """Another held-out set, one that has few of its items, or items that weigh otherwise: no pairs, no difference."""
    values = {"sft": {"bits_per_byte": around(2.0)}}
    row = compared(store, Planted(values=values), Planted(values=values, **other))[0]
    assert (row.word, row.difference) == ("other items", None) and row.before and row.after
    lacks = words(compared(store, Planted(values={"sft": {"passed": [0, 1] * 20}}), Planted(values=values)))
    assert lacks["text bits_per_byte"] == lacks["arithmetic passed"] == "only one has it"


def test_the_fixed_prompts_and_the_reward_are_compared_too(store: Store):
    """They stand in no table of items; both are known of every prompt and pair."""
    margins = {"sft": {"margin": [0.0] * 40}, "dpo": {"margin": [-1.0] * 40}}
    better = {**margins, "dpo": {"margin": [1.0] * 40}}
    before, after = Planted(values=margins, reward="yes"), Planted(values=better, reward="yes", repetition=0.3)
    pairs = difference(evaluated(store, before), evaluated(store, after)).pairs
    assert [pair.title for pair in pairs] == ["sft", "dpo"]
    said = words(pairs[1].rows)
    assert said["preference reward"] == "better" and said["answers repetition"] == "worse"
    assert said["answers ended"] == said["answers tokens"] == "cannot be told apart"


def test_cards_are_matched_by_name_and_what_was_handed_out_comes_first(store: Store):
    """pretrain with pretrain; where one card handed out another model than the other, these two as well."""
    values = {name: {"bits_per_byte": around(2.0)} for name in ("sft", "dpo")}
    sft, dpo = (build(TRAIN[name], Planted(), {}, store=store)[0] for name in ("sft", "dpo"))
    evaluation = evaluated(store, Planted(values=values), sft=sft, dpo=dpo)
    first = build(PUBLISH, Planted(), {"evaluation": evaluation, "sft": sft}, store=store)[0]
    second = build(PUBLISH, Planted(lr=3e-4), {"evaluation": evaluation, "dpo": dpo}, store=store)[0]
    assert [pair.title for pair in difference(first, second).pairs] == ["sft → dpo", "sft", "dpo"]
    assert [pair.title for pair in difference(first, first).pairs] == ["sft", "dpo"]
    assert [pair.title for pair in difference(sft, dpo).pairs] == ["sft → dpo"]
    assert [pair.title for pair in difference(sft, second).pairs] == ["sft → dpo"]
    assert [pair.title for pair in difference(sft, evaluation).pairs] == ["sft"]
    found = difference(first, second)
    assert found.pairs[1].same and not found.pairs[0].same
    assert found.made and any("lr: 0.001 → 0.0003" in line for one in found.made.differences for line in one.lines)


def folder(store: Store, config: Planted, path: Path) -> Path:
    """What `minimind eval --out` leaves: figures and items, and nobody knows whose."""
    path.mkdir()
    for name in (EVALUATION_FILE, ITEMS_FILE):
        shutil.copy(evaluated(store, config).dir / name, path)
    return path


def test_folders_of_figures_are_compared_with_each_other_and_with_models(store: Store, tmp_path: Path):
    """One model in each is the pair, whatever it is called; how they were made nobody knows."""
    old, new = (Planted(values={name: {"passed": values}}) for name, values in (("sft", [0] * 40), ("dpo", [1] * 40)))
    before, after = folder(store, old, tmp_path / "one"), folder(store, new, tmp_path / "two")
    found = difference(before, after)
    (pair,) = found.pairs
    assert (found.before, pair.title, found.made) == (str(before), "sft → dpo", None)
    assert words(pair.rows)["arithmetic passed"] == "better"
    assert "how they were made" not in render_html(found)
    sft = build(TRAIN["sft"], Planted(), {}, store=store)[0]
    evaluated(store, old, sft=sft)
    assert [pair.title for pair in difference(sft, after).pairs] == ["sft → dpo"]
    both = folder(store, Planted(values={**old.values, **new.values}), tmp_path / "both")
    assert [pair.title for pair in difference(both, both).pairs] == ["sft", "dpo"]
    assert [pair.title for pair in difference(before, both).pairs] == ["sft"]


def test_models_of_no_store_are_not_called_the_same(store: Store, tmp_path: Path):
    """Both have no fingerprint."""
    path = folder(store, Planted(values={"mine": {"passed": [0, 1] * 20}}), tmp_path / "one")
    facts = json.loads((path / EVALUATION_FILE).read_text(encoding="utf-8"))
    facts["models"]["mine"]["fingerprint"] = ""
    write_json(path / EVALUATION_FILE, facts)
    (pair,) = difference(path, path).pairs
    assert not pair.same


def test_what_cannot_be_compared_is_an_error_with_the_remedy(store: Store):
    pretrain = build(TRAIN["pretrain"], Planted(), {}, store=store)[0]
    with pytest.raises(MissingError, match="minimind run evaluate"):
        difference(pretrain, pretrain)
    one, other = (evaluated(store, Planted(values={name: {"passed": [0, 1]}})) for name in ("sft", "dpo"))
    with pytest.raises(ConfigError, match="no model of one name; give two models"):
        difference(one, other)
    both = evaluated(store, Planted(values={"sft": {"passed": [0]}, "dpo": {"passed": [1]}}), pretrain=pretrain)
    with pytest.raises(ConfigError, match="give one of these models"):
        difference(pretrain, both)


class Page(html.parser.HTMLParser):
    """The tags and the words of a page; fails on a tag that is closed in the wrong place."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.tags, self.words = list[str](), list[str](), ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert not [name for name, _ in attrs if name in ("src", "href") or name.startswith("on")]
        self.tags.append(tag)
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, self.getpos()

    def handle_data(self, data: str) -> None:
        self.words += data


def test_the_command_gives_a_table_json_and_a_page(store: Store, minimind: Command, tmp_path: Path):
    """Words of a model stay words on the page, which fetches nothing."""
    old, new = (Planted(values={"sft": {"bits_per_byte": around(value)}}, lr=value) for value in (2.0, 1.8))
    first, second = (str(evaluated(store, config).dir) for config in (old, new))
    code, text, _ = minimind("report", "diff", first, second)
    assert code == 0 and "better" in text and "-0.2000 (-0.2000 to -0.2000)" in text and "lr: 2.0 → 1.8" in text
    found = Difference.model_validate(json.loads(minimind("report", "diff", first, second, "--json")[1]))
    assert found == difference(*(evaluated(store, config) for config in (old, new)))
    assert minimind("report", "diff", first, second, "--html", str(tmp_path / "diff.html"))[0] == 0
    page = (tmp_path / "diff.html").read_text(encoding="utf-8")
    assert page == render_html(found)
    words_of_page = Page(page)
    assert "script" not in words_of_page.tags and "img" not in words_of_page.tags
    for expected in ("better", "lr: 2.0 → 1.8", "<script>alert('x')</script> ‹ESC›[31m", "(nothing)", "Prompt 11"):
        assert expected in words_of_page.words
    loose = folder(store, new, tmp_path / "loose")
    code, text, _ = minimind("report", "diff", first, str(loose))
    assert code == 0 and "better" in text and "made of the same data" not in text
    code, _, error = minimind("report", "diff", first, second, "--html", str(tmp_path / "nowhere" / "diff.html"))
    assert code == 2 and "there is no directory" in error
