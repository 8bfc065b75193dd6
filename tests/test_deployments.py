"""Every flow as a deployment, in two ways that agree: served by `minimind up`, and by prefect.yaml on a work pool.

The two lists, the forms, and what both are given. On real servers: `test_up.py` and `test_pool.py`.
"""

import importlib
import json
import os
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.client.schemas.objects import ConcurrencyLimitStrategy
from prefect.deployments.runner import RunnerDeployment
from prefect.flows import load_flow_from_entrypoint
from prefect.settings import get_current_settings
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import ValidationError, validate
from test_up import CHECKOUT

from flows import pool, serve
from flows.catalog import flow_names
from flows.deployments import GROUPS, served
from minimind import runtime
from tasks import retries

DEPLOYED = [*flow_names(), "sweep"]
POOL_FILE = yaml.safe_load((CHECKOUT / "prefect.yaml").read_text(encoding="utf-8"))


def in_file() -> dict[str, dict[str, Any]]:
    """Flow name → what prefect.yaml says of its deployment, and its flow."""
    flows = [load_flow_from_entrypoint(one["entrypoint"]) for one in POOL_FILE["deployments"]]
    return {flow.name: one | {"flow": flow} for flow, one in zip(flows, POOL_FILE["deployments"], strict=True)}


def here() -> dict[str, RunnerDeployment]:
    """Flow name → its deployment as it is served."""
    return {deployment.flow_name: deployment for deployment in served()}


def test_both_ways_offer_every_flow():
    """A stage that can be run in one way only is a stage that is forgotten."""
    assert list(here()) == list(in_file()) == DEPLOYED
    assert set(here()) == {"full-pipeline", "sweep", *(stage for stages in GROUPS.values() for stage in stages)}


@pytest.mark.parametrize("name", DEPLOYED)
def test_both_ways_say_the_same_of_a_flow(name: str):
    served_one, filed = here()[name], in_file()[name]
    assert served_one.entrypoint == filed["entrypoint"]
    assert served_one.tags == filed["tags"]
    assert "description" not in filed, "prefect.yaml says it a second time; without it the flow's own is taken"
    assert served_one.description == filed["flow"].description
    assert "parameters" not in filed and served_one.parameters == {}
    assert served_one._parameter_openapi_schema == parameter_schema(filed["flow"])
    limit = filed.get("concurrency_limit")
    assert served_one.concurrency_limit == (limit and limit["limit"])
    if limit:
        assert served_one.concurrency_options.collision_strategy == ConcurrencyLimitStrategy(
            limit["collision_strategy"]
        )


def test_the_two_are_called_differently_and_loaded_by_module():
    """Both may be on one server; and a file's path would put flows/ first on sys.path."""
    assert {one["name"] for one in POOL_FILE["deployments"]} == {"pool"}
    assert {one.name for one in served()} == {"local"}
    assert not [one["entrypoint"] for one in POOL_FILE["deployments"] if ":" in one["entrypoint"]]


def test_the_pools_version_is_the_packages():
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {one["version"] for one in POOL_FILE["deployments"]} == {project["version"]}


def test_nothing_starts_by_itself():
    """The one schedule is an example."""
    schedules = {name: one["schedules"] for name, one in in_file().items() if "schedules" in one}
    assert [(name, [s["active"] for s in found]) for name, found in schedules.items()] == [("full-pipeline", [False])]


def test_a_schedule_that_was_added_in_the_page_outlives_a_restart():
    """Prefect replaces by nothing what it is told is empty."""
    told = [deployment.model_dump(exclude_unset=True) for deployment in served()]
    assert not {"schedules", "paused"} & {name for one in told for name in one}
    assert all({"description", "tags", "version", "concurrency_limit"} <= set(one) for one in told)


def test_the_file_names_no_place_of_one_machine():
    text = (CHECKOUT / "prefect.yaml").read_text(encoding="utf-8")
    assert not re.findall(r"(?<![\w.}/-])/\w+", text.replace("full-pipeline/pool", ""))


@pytest.mark.parametrize("name", DEPLOYED)
def test_the_form_of_a_flow_can_be_read(name: str):
    """What a person sees in Prefect's page: names as after `-p`, in the flow's order, each with a sentence."""
    schema = here()[name]._parameter_openapi_schema
    fields = schema.properties
    assert [field["position"] for field in fields.values()] == list(range(len(fields)))
    assert {key: field["title"] for key, field in fields.items()} == {key: key for key in fields}
    assert not [key for key, field in fields.items() if not field["description"].endswith((".", '"].'))]
    required = {"sweep": ["settings"], "generate": ["input"]}.get(name, [])  # all else runs as it stands
    assert schema.required == required
    assert [key for key, field in fields.items() if "default" not in field] == required
    assert "Args:" not in here()[name].description and "\n" not in here()[name].description


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("lr", "abc", "field 'lr'. Failure reason: 'abc' is not valid"),
        ("lr", -1, "field 'lr'. Failure reason: -1 is less than or equal to the minimum of 0"),
        ("refresh", "maybe", "field 'refresh'. Failure reason: 'maybe' is not of type 'boolean'"),
        ("overrides", "sft.lr=1", "field 'overrides'. Failure reason: 'sft.lr=1' is not valid"),
    ],
)
def test_a_wrong_value_is_refused_by_name(name: str, value: object, reason: str):
    """The server checks a run's parameters before anybody starts it."""
    schema = here()["sft"]._parameter_openapi_schema.model_dump()
    validate({name: None} if name == "lr" else {}, schema, raise_on_error=True)
    with pytest.raises(ValidationError, match=re.escape(reason)):
        validate({name: value}, schema, raise_on_error=True)


def test_a_run_of_a_worker_finds_what_one_of_up_finds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """State in the store, JSON results, nothing sent home: whatever shell the worker was started from."""
    monkeypatch.setattr(os, "environ", {"MINIMIND_HOME": str(tmp_path)})
    assert pool.enter() == {"directory": str(runtime.CHECKOUT)}
    assert serve.environment(tmp_path).items() <= os.environ.items()
    assert os.environ["PREFECT_HOME"] == str(tmp_path / "prefect")
    assert [list(step) for step in POOL_FILE["pull"]] == [[f"{pool.__name__}.{pool.enter.__name__}"]]


def test_a_run_that_nobody_watches_tries_a_stage_again(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(retries.VARIABLE, raising=False)
    assert retries.retries() == 0
    (given,) = {json.dumps(one["work_pool"]["job_variables"]) for one in POOL_FILE["deployments"]}
    assert json.loads(given) == {"env": {retries.VARIABLE: "1"}}


def test_the_settings_that_up_gives_its_runner_are_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Prefect ignores what it does not know, also a variable with a typing mistake."""
    monkeypatch.delenv(retries.VARIABLE, raising=False)
    monkeypatch.setattr(serve.databases, "create_once", lambda kind, path, create: None)
    given: dict[str, str] = {}
    monkeypatch.setattr(serve, "_start", lambda *arguments, **_: given.update(arguments[3]))
    serve.start_deployments(tmp_path, 1, 2)
    serve.start_prefect(tmp_path, 1)
    assert given[retries.VARIABLE] == "1"
    known = {name.upper() for name in get_current_settings().to_environment_variables()}
    ours = {name for name in given if name.startswith(("PREFECT_RUNNER_", "PREFECT_SERVER_CONCURRENCY_"))}
    ours |= {"PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS"}
    assert len(ours) == 3 and ours <= known & given.keys()
    assert importlib.import_module(given["PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"]).ConcurrencyLeaseStorage
