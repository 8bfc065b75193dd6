"""Both pages in a real browser, as a user goes through them: the run, its stages, across to MLflow and back.

`MINIMIND_SCREENSHOTS=DIR` keeps a picture of every page that was looked at.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from test_up import Up

playwright = pytest.importorskip("playwright.sync_api", reason="the extra `browser` is not installed")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]

pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="there is no Chromium on this machine")]


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """Servers that one run of the pipeline has gone through."""
    started = Up(tmp_path_factory.mktemp("pages"))
    try:
        started.wait_until_ready()
        done = started.run("full-pipeline/local", *(f"{k}={v}" for k, v in started.parameters.items()))
        assert done.returncode == 0, done.stdout + done.stderr
        yield started
    finally:
        started.stop()


@pytest.fixture
def page(tmp_path: Path) -> Iterator["playwright.Page"]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=FLAGS)
        opened = browser.new_page(viewport={"width": 1400, "height": 1000})
        opened.set_default_timeout(30_000)
        yield opened
        browser.close()


def look(page: "playwright.Page", name: str) -> None:
    """Keep a picture, where somebody wants them."""
    if directory := os.environ.get("MINIMIND_SCREENSHOTS"):
        page.wait_for_timeout(3000)  # charts and pictures come after the words
        page.screenshot(path=str(Path(directory) / f"{name}.png"))


def prefect(up: Up) -> str:
    return f"http://127.0.0.1:{up.ports[0]}"


def newest_run(up: Up) -> dict:
    return httpx.post(f"{prefect(up)}/api/flow_runs/filter", json={"sort": "START_TIME_DESC", "limit": 1}).json()[0]


def open_artifact(up: Up, page: "playwright.Page", key: str) -> None:
    found = httpx.post(f"{prefect(up)}/api/artifacts/filter", json={"artifacts": {"key": {"any_": [key]}}}).json()
    page.goto(f"{prefect(up)}/artifacts/artifact/{found[0]['id']}")


def test_from_the_list_of_runs_across_to_mlflow_and_back(up: Up, page: "playwright.Page") -> None:
    run = newest_run(up)
    page.goto(f"{prefect(up)}/runs")
    page.get_by_text(run["name"]).first.click()
    page.wait_for_url(f"**/flow-run/{run['id']}*")
    page.get_by_text("sft: made models:/minimind-sft/1").wait_for()
    look(page, "prefect_run")

    page.get_by_text("Artifacts", exact=True).last.click()
    page.get_by_text("stages", exact=True).last.click()
    row = page.get_by_role("row").filter(has=page.get_by_text("models:/minimind-pretrain/1", exact=True))
    look(page, "prefect_stages")
    with page.expect_popup() as opened:
        row.get_by_role("link", name="run").click()
    mlflow = opened.value
    mlflow.set_default_timeout(30_000)
    mlflow.get_by_role("heading", name="pretrain").wait_for()
    mlflow.get_by_text("minimind-pretrain", exact=True).wait_for()
    look(mlflow, "mlflow_run")

    with mlflow.expect_popup() as opened:
        mlflow.get_by_role("link", name="Flow run in Prefect").click()
    back = opened.value
    back.set_default_timeout(30_000)
    back.get_by_text("sft: made models:/minimind-sft/1").wait_for()
    assert run["id"] in back.url


def test_mlflow_draws_the_curves_and_names_the_data_of_a_training(up: Up, page: "playwright.Page") -> None:
    mlflow, name = f"http://127.0.0.1:{up.ports[1]}", "attributes.run_name = 'pretrain'"
    asked = httpx.post(f"{mlflow}/api/2.0/mlflow/runs/search", json={"experiment_ids": ["1"], "filter": name})
    run_id = asked.json()["runs"][0]["info"]["run_id"]
    page.goto(f"{mlflow}/#/experiments/1/runs/{run_id}?workflowType=machine_learning")
    page.get_by_text("tokens-pretrain").wait_for()
    page.get_by_role("tab", name="Model metrics").click()
    for metric in ("loss", "lr"):
        page.get_by_text(metric, exact=True).first.wait_for()
    page.locator("svg .scatterlayer .trace").first.wait_for(state="attached")
    look(page, "mlflow_metrics")
    page.get_by_role("tab", name="Artifacts").click()
    page.get_by_text("first_steps.html").first.click()
    page.frame_locator("iframe").get_by_text("pretrain").first.wait_for()
    look(page, "mlflow_first_steps")


def test_prefect_shows_what_a_stage_left(up: Up, page: "playwright.Page") -> None:
    """Figures and samples, the curve, the funnel of the data, the card."""
    shown = {
        "sft": "tokens_per_second",
        "clean-pretrain-report": "kept",
        "report-card": "bits per byte",
    }
    for key, words in shown.items():
        open_artifact(up, page, key)
        page.get_by_text(words).first.wait_for()
        look(page, f"prefect_{key}")
    open_artifact(up, page, "pretrain-curve")
    picture = page.get_by_role("img", name="loss of pretrain by step")
    picture.wait_for()
    assert picture.evaluate("image => image.naturalWidth") > 300
    look(page, "prefect_curve")


def test_the_form_of_a_stage_says_what_its_fields_are(up: Up, page: "playwright.Page") -> None:
    deployments = httpx.post(f"{prefect(up)}/api/deployments/filter", json={}).json()
    (sft,) = [d for d in deployments if d["entrypoint"].endswith(".sft")]
    page.goto(f"{prefect(up)}/deployments/deployment/{sft['id']}/run")
    page.get_by_text("Peak of the learning rate; else the recipe's.").wait_for()
    look(page, "prefect_form")
