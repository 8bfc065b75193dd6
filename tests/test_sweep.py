"""Sweeps: what is varied, how points compare, and a real one: shared stages once, the best is the candidate.

Two sweeps of a micro recipe are run once for the module, with a Prefect server, MLflow on SQLite and torchrun
children: of the whole pipeline, one point of which diverges, then of one stage. The tests look at what they left.
"""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import (
    PREFECT_HOME,
    PREFECT_LOCAL_STORAGE_PATH,
    PREFECT_RESULTS_DEFAULT_SERIALIZER,
    temporary_settings,
)
from rich.console import Console
from test_pipeline import RECIPE, write_project

from flows.serve import prefect_for_one_run
from flows.sweep import prepare, sweep
from minimind.errors import ConfigError
from minimind.sweep.charts import draw_all
from minimind.sweep.comparison import Comparison, Curve, Result, read_comparison
from minimind.sweep.grid import read_grid, split_values
from minimind.sweep.metric import Metric, choose_metric, compared_stage
from minimind.sweep.page import render_markdown, sweep_dir, write_all
from minimind.sweep.table import points_table, render_csv, seeds_table
from tasks.sweep import PointsFailed
from tasks.sweep_plan import swept_stage
from tasks.tracking import Tracker


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1e-4,3e-4 , 1e-3", ["1e-4", "3e-4", "1e-3"]),
        ('"cosine","wsd"', ['"cosine"', '"wsd"']),
        ("cosine,wsd", ["cosine", "wsd"]),
        ('["q_proj"],["q_proj","v_proj"]', ['["q_proj"]', '["q_proj","v_proj"]']),
        ('"a,b",\'c,"d\'', ['"a,b"', "'c,\"d'"]),
        (r'"a\",b",c', [r'"a\",b"', "c"]),
        ("{pretrain=0.1,chat=0.2},{}", ["{pretrain=0.1,chat=0.2}", "{}"]),
        ("7", ["7"]),
    ],
)
def test_values_are_cut_at_commas_outside_of_quotes_and_brackets(text: str, values: list[str]):
    assert split_values(text, option="-o key") == values


def test_a_grid_is_every_combination_with_the_values_toml_gives():
    grid = read_grid(["sft.lr=1e-4,1e-3", "sft.epochs=2", 'sft.schedule="cosine","wsd"', "dpo.lr=1e-5,1e-6"])
    assert grid.fixed == ("sft.epochs=2",)
    assert len(grid.points) == 8
    last = grid.points[-1]
    assert last.settings == {"sft.lr": 1e-3, "sft.schedule": "wsd", "dpo.lr": 1e-6}
    assert last.name == "sft.lr=1e-3 schedule=wsd dpo.lr=1e-6"
    assert last.overrides == ("sft.epochs=2", "sft.lr=1e-3", 'sft.schedule="wsd"', "dpo.lr=1e-6")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "nothing to compare: no setting is given"),
        (["sft.lr=1e-3"], "each of sft.lr has one value"),
        (["sft.lr"], "write it as section.key=value,value"),
        (["sft.lr=1e-3,"], "a value is empty"),
        (["sft.lr=1e-3,0.001"], "1e-3 and 0.001, which are the same"),
        (["sft.schedule=wsd,wsd"], "wsd twice"),
        (["sft.lr=1,2", "sft.lr=3"], "given twice"),
        (['lora.targets=["q_proj",["o_proj"]'], "] is missing"),
        (['sft.schedule="wsd,cosine'], '" is missing'),
    ],
)
def test_a_grid_that_cannot_be_is_refused_with_what_to_write(overrides: list[str], message: str):
    with pytest.raises(ConfigError, match=message.replace("[", r"\[")):
        read_grid(overrides)


def test_the_stage_follows_from_what_is_swept():
    assert swept_stage(None, read_grid(["sft.lr=1,2"])) == "sft"
    assert swept_stage(None, read_grid(["sft.lr=1,2", "dpo.lr=1,2"])) == "full-pipeline"
    assert swept_stage(None, read_grid(["model.num_layers=1,2"])) == "full-pipeline"
    with pytest.raises(ConfigError, match="did you mean `pretrain`"):
        swept_stage("pretrian", read_grid(["sft.lr=1,2"]))
    assert compared_stage("full-pipeline", ["sft", "dpo"]) == "dpo"
    assert compared_stage("full-pipeline", ["tokenizer"]) == "pretrain"
    assert compared_stage("lora", ["sft"]) == "lora"


def test_a_metric_knows_which_way_it_is_better_or_asks():
    stages = ["pretrain", "sft", "evaluate"]
    assert choose_metric(None, None, compared="pretrain", stages=stages).words == (
        "validation_bits_per_byte, lower is better"
    )
    other = choose_metric("evaluate.sft_preference_accuracy_per_token", None, compared="sft", stages=stages)
    assert (other.name, other.goal) == ("evaluate.sft_preference_accuracy_per_token", "max")
    assert choose_metric("my_figure", "max", compared="sft", stages=stages).rank(2.0) == -2.0
    for name, goal, message in (
        ("my_figure", None, "--goal min or --goal max"),
        ("evalute.loss", None, "did you mean `evaluate`"),
        ("loss", "up", "say `min` or `max`"),
    ):
        with pytest.raises(ConfigError, match=message):
            choose_metric(name, goal, compared="sft", stages=stages)


def compared(values: dict[str, float | None], **changes: object) -> Comparison:
    """A comparison by `validation_loss` of points `lr/seed`, or `lr`."""
    results = []
    for number, (name, value) in enumerate(values.items(), 1):
        lr, _, seed = name.partition("/")
        settings = {"sft.lr": float(lr)} | ({"sft.seed": int(seed)} if seed else {})
        texts = {"sft.lr": lr} | ({"sft.seed": seed} if seed else {})
        figures = {} if value is None else {"validation_loss": value, "tokens_per_second": 9000.0}
        curve = Curve(figure="validation_loss", tokens=[1.0, 2.0], values=[9.0, value or 9.0])
        results.append(
            Result(
                number=number,
                name=f"lr={name}",
                settings=settings,
                texts=texts,
                state="made",
                figures=figures,
                curves=[curve],
            )
        )
    seeded = any("/" in name for name in values)
    made = Comparison(
        id="0",
        stage="sft",
        compared="sft",
        recipe="micro",
        metric=Metric(stage="sft", figure="validation_loss", goal="min"),
        names={"sft.lr": "lr"} | ({"sft.seed": "seed"} if seeded else {}),
        seeds=["sft.seed"] if seeded else [],
        results=results,
        created_at="2026-01-01T00:00:00+00:00",
    )
    return made.replace(**changes)


def test_points_are_ranked_and_those_without_the_figure_come_last_and_are_named():
    comparison = compared({"1e-4": 2.0, "1e-3": 1.5, "1e-2": None})
    assert [result.name for result in comparison.ranked()] == ["lr=1e-3", "lr=1e-4", "lr=1e-2"]
    assert any("without validation_loss: lr=1e-2" in note for note in comparison.notes())
    assert compared({"1e-4": None, "1e-3": None}).best() is None
    assert comparison.replace(metric=Metric(stage="sft", figure="validation_loss", goal="max")).best().name == "lr=1e-4"


def test_a_failed_point_is_never_the_best_and_is_told_with_its_error():
    comparison = compared({"1e-4": 2.0, "1e-3": 1.5})
    failed = comparison.results[1].replace(state="failed", error="dpo: no space left")
    comparison = comparison.replace(results=[comparison.results[0], failed])
    assert comparison.best().name == "lr=1e-4"
    assert "lr=1e-3: dpo: no space left" in comparison.notes()
    assert points_table(comparison).rows[1].cells[0] == "✗"


def test_seeds_are_one_setting_and_say_what_a_difference_is_worth():
    """The luckiest single run is not the best setting."""
    comparison = compared({"1e-4/0": 1.0, "1e-4/1": 3.0, "1e-3/0": 1.8, "1e-3/1": 1.9})
    assert comparison.best().name == "lr=1e-3/0"
    table = seeds_table(comparison)
    assert table and table.rows[0].cells == ("★", "1e-3", "2", "1.8500", "0.0707", "1.8000", "1.9000")
    assert any("may be chance" in note for note in comparison.notes())
    clear = compared({"1e-4/0": 3.0, "1e-4/1": 3.1, "1e-3/0": 1.8, "1e-3/1": 1.9})
    assert any("more than twice that error" in note for note in clear.notes())


def test_a_setting_that_lost_a_seed_comes_after_those_that_lost_none():
    comparison = compared({"1e-4/0": 2.0, "1e-4/1": 2.1, "1e-3/0": 1.0, "1e-3/1": None})
    assert comparison.best().name == "lr=1e-4/0"
    assert seeds_table(comparison).rows[1].cells[2] == "1 of 2"


def test_without_several_seeds_nothing_is_said_of_chance():
    assert not any("error" in note for note in compared({"1e-4": 2.0, "1e-3": 1.5}).notes())


def test_csv_has_every_figure_unrounded_and_markdown_marks_the_best():
    comparison = compared({"1e-4": 2.0, "1e-3": 1.23456789})
    first = next(csv.DictReader(io.StringIO(render_csv(comparison))))
    assert (first["sft.lr"], first["validation_loss"], first["state"]) == ("1e-3", "1.23456789", "made")
    assert "**★** | **1e-3** | **1.2346**" in render_markdown(comparison)


def grid_of(*shape: tuple[str, list[object]]) -> Comparison:
    """A comparison of a grid of settings, with a figure for each point."""
    overrides = [f"{key}={','.join(json.dumps(value) for value in values)}" for key, values in shape]
    grid = read_grid(overrides)
    results = [
        Result(
            number=p.number,
            name=p.name,
            settings=p.settings,
            texts=p.texts,
            state="made",
            figures={"validation_loss": p.number},
        )
        for p in grid.points
    ]
    return compared({"1": 1.0}, names=grid.names, results=results)


@pytest.mark.parametrize(
    "shape",
    [
        [("sft.lr", [1e-4, 1e-3, 1e-2])],
        [("sft.lr", [1e-4, 1e-3]), ("sft.schedule", ["cosine", "wsd"])],
        [("sft.schedule", ["cosine", "wsd"]), ("sft.lr", [1e-4, 1e-3])],
        [("sft.schedule", ["cosine", "wsd"])],
        [("lora.targets", [["q_proj"], ["o_proj"]]), ("lora.exact", [True, False])],
        [("sft.lr", [1.0 + n for n in range(7)]), ("sft.beta1", [0.1 * n for n in range(7)])],
        [("sft.lr", [1, 2, 3]), ("sft.warmup_steps", [1, 2, 3]), ("sft.seed", [0, 1, 2])],
        [("sft.system_prompts", [["你好 $x$"], []])],
    ],
)
def test_every_shape_of_a_sweep_can_be_drawn(tmp_path: Path, shape: list[tuple[str, list[object]]]):
    assert draw_all(grid_of(*shape), tmp_path) == ["metric"]
    assert (tmp_path / "metric.png").stat().st_size > 5000 and (tmp_path / "metric.dark.png").exists()


def test_the_page_is_whole_in_one_file_and_the_comparison_comes_back(tmp_path: Path):
    comparison = compared({"1e-4/0": 2.0, "1e-4/1": 2.2, "1e-3/0": 1.5, "1e-3/1": None})
    write_all(comparison, tmp_path)
    assert read_comparison(tmp_path) == comparison
    page = (tmp_path / "sweep.html").read_text()
    assert page.count("data:image/png;base64,") == 4 and "<script" not in page
    assert {path.name for path in tmp_path.iterdir()} == {
        "sweep.json", "sweep.csv", "sweep.md", "sweep.html", "figures"
    }  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Parameters of a micro recipe with two trainings, a store, and a real Prefect server for the module."""
    directory = tmp_path_factory.mktemp("sweep")
    home = directory / "home"
    settings = {
        PREFECT_HOME: home / "prefect",
        PREFECT_LOCAL_STORAGE_PATH: home / "prefect" / "storage",
        PREFECT_RESULTS_DEFAULT_SERIALIZER: "json",
    }
    with pytest.MonkeyPatch.context() as patch, temporary_settings(settings):
        patch.setenv("MINIMIND_HOME", str(home))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        parameters = write_project(directory)
        spec = Path(parameters["data"])
        spec.write_text(spec.read_text().partition('[[source]]\nname = "pairs"')[0])
        recipe = RECIPE[: RECIPE.index("[dpo]")] + RECIPE[RECIPE.index("[evaluate]") :]
        start = recipe.index("[sft]")  # short steps: enough of them for a training to be given up
        recipe = recipe[:start] + recipe[start:].replace("batch_tokens = 2048", "batch_tokens = 512")
        Path(parameters["recipe"]).write_text(recipe + '[publish]\nmodel = "sft"\n')
        with prefect_for_one_run(Console(quiet=True), share=False):
            yield parameters


@pytest.fixture(scope="module")
def pipelines(project: dict[str, str]) -> Comparison:
    """A sweep of the whole pipeline: the best point first, then one that diverges, the last not the best."""
    settings = ["sft.lr=1e-2,1e30,1e-4"]
    plan = prepare(settings, "full-pipeline", **project)
    with pytest.raises(PointsFailed, match="1 of 3 points failed: lr=1e30"):
        sweep(settings, "full-pipeline", **project)
    return read_comparison(sweep_dir(plan.id))


@pytest.fixture(scope="module")
def stages(project: dict[str, str], pipelines: Comparison) -> Comparison:
    """A sweep of SFT alone over what is there, by another metric: the other way round."""
    settings, recipe = ["sft.lr=1e-2,1e-4"], project["recipe"]
    plan = prepare(settings, recipe=recipe)
    assert plan.inputs == {"init": "models:/minimind-pretrain/1", "tokens": "models:/minimind-tokens-chat/1"}
    assert not plan.waiting
    assert sweep(settings, recipe=recipe, metric="validation_loss", goal="max") == "models:/minimind-sft/2"
    return read_comparison(sweep_dir(plan.id))


@pytest.fixture
def tracker(pipelines: Comparison) -> Tracker:
    return Tracker(sweep_dir(pipelines.id).parents[1])


def runs_below(tracker: Tracker, parent: str) -> dict[str, object]:
    found = tracker.client.search_runs([tracker.experiment_id], f"tags.`mlflow.parentRunId` = '{parent}'")
    return {run.info.run_name: run for run in found}


def run_of(comparison: Comparison) -> str:
    return comparison.mlflow.rpartition("/")[2].partition("?")[0]


@pytest.mark.slow
def test_what_points_share_is_run_once(tracker: Tracker, pipelines: Comparison):
    points = runs_below(tracker, run_of(pipelines))
    assert {name: run.info.status for name, run in points.items()} == {
        "lr=1e-2": "FINISHED",
        "lr=1e30": "FAILED",
        "lr=1e-4": "FINISHED",
    }
    names = ("lr=1e-2", "lr=1e30", "lr=1e-4")
    first, failed, last = (set(runs_below(tracker, points[name].info.run_id)) for name in names)
    assert {"ingest-chat", "tokenizer", "pretrain", "sft", "evaluate", "publish"} <= first
    assert (failed, last) == ({"sft"}, {"sft", "evaluate", "publish"})


@pytest.mark.slow
def test_points_can_be_compared_in_mlflow(tracker: Tracker, pipelines: Comparison):
    """Settings as parameters and figures as metrics, on the runs of the points."""
    best = runs_below(tracker, run_of(pipelines))["lr=1e-2"]
    assert best.data.params["sft.lr"] == "1e-2"
    assert best.data.metrics["validation_loss"] == pipelines.best().figures["validation_loss"]
    assert best.data.tags["sweep"] == pipelines.id
    files = {file.path for file in tracker.client.list_artifacts(run_of(pipelines))}
    assert {"sweep.html", "sweep.csv", "sweep.md", "sweep.json", "figures"} <= files
    pictures = {file.path for file in tracker.client.list_artifacts(run_of(pipelines), "figures")}
    assert {"figures/metric.png", "figures/curves.png"} <= pictures


@pytest.mark.slow
def test_a_point_that_fails_stops_no_other_and_is_told(tracker: Tracker, pipelines: Comparison):
    assert [result.state for result in pipelines.results] == ["made", "failed", "made"]
    assert [result.name for result in pipelines.ranked()] == ["lr=1e-2", "lr=1e-4", "lr=1e30"]
    assert "not finite" in next(result.error for result in pipelines.failed)
    assert tracker.client.get_run(run_of(pipelines)).info.status == "FAILED"
    assert PointsFailed.exit_code == 1


@pytest.mark.slow
def test_the_aliases_are_at_the_best_point_not_at_the_last(pipelines: Comparison):
    """The last point published the second version of both."""
    assert {move.alias: move.now for move in pipelines.moved} == {
        f"models:/minimind-{name}@{alias}": f"models:/minimind-{name}/1"
        for name in ("sft", "chat")
        for alias in ("candidate", "champion")
    }


@pytest.mark.slow
def test_prefect_shows_the_comparison_and_a_run_for_each_point(pipelines: Comparison):
    with get_client(sync_client=True) as client:
        artifacts = {artifact.key: artifact.data for artifact in client.read_artifacts()}
        names = {run.name for run in client.read_flow_runs()}
    assert "[MLflow run](http" in artifacts["sweep"] and "★" in artifacts["sweep"]
    assert {"sweep sft.lr", "lr=1e-2", "lr=1e30", "lr=1e-4"} <= names


@pytest.mark.slow
def test_what_is_there_is_reused_and_another_metric_makes_another_candidate(tracker: Tracker, stages: Comparison):
    """Nothing is trained for it; the champion is that of a published model, and no point published one here."""
    assert {result.name: result.state for result in stages.results} == {"lr=1e-2": "reused", "lr=1e-4": "reused"}
    runs = runs_below(tracker, run_of(stages))
    assert not any(runs_below(tracker, run.info.run_id) for run in runs.values())
    assert tracker.client.get_run(run_of(stages)).data.params["stage.sft"] == "models:/minimind-sft/2 (reused)"
    for name, alias, version in (("sft", "candidate", 2), ("sft", "champion", 1), ("chat", "candidate", 1)):
        assert tracker.alias_of(f"minimind-{name}", alias) == f"models:/minimind-{name}/{version}"


@pytest.mark.slow
def test_a_sweep_that_changes_nothing_is_refused_before_it_starts(project: dict[str, str], pipelines: Comparison):
    for settings, message in (
        (["sft.processes=1,2"], "would make the same: sft.processes is not read"),
        (["pretrain.lr=1e-3,1e-4"], "pretrain.lr is not read"),
        (["sft.lrr=1e-3,1e-4"], "did you mean `lr`"),
        (["sft.batch_tokens=512,64"], "holds no row"),
    ):
        with pytest.raises(ConfigError, match=message):
            prepare(settings, "sft", recipe=project["recipe"])
    with pytest.raises(ConfigError, match="only the whole pipeline reads a data spec"):
        prepare(["sft.lr=1e-3,1e-4"], "sft", **project)


@pytest.mark.slow
def test_the_plan_counts_what_points_share_once(project: dict[str, str], pipelines: Comparison):
    plan = prepare(["pretrain.lr=1e-3,1e-4", "sft.lr=1e-2,1e-4"], **project)
    labels = [step.label for step in plan.waiting]
    assert labels.count("pretrain") == 1  # 1e-3 is the recipe's, and is there
    assert labels.count("sft") == 2
    assert all(step.seconds is not None for step in plan.waiting)
