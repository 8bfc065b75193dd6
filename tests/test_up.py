"""`minimind up` for real: servers, deployments, runs asked for from another shell, and an end without remains."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from test_pipeline import write_project

pytestmark = pytest.mark.slow

CHECKOUT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Up:
    """A running `minimind up` and what a user's other shell knows."""

    def __init__(self, directory: Path, **more: str) -> None:
        """`more` environment for `minimind up`, which the other shell does not have."""
        self.parameters, self.home = write_project(directory), directory / "home"
        self.ports = free_port(), free_port()
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_", "MINIMIND_"))}
        self.shell = {**clean, "PREFECT_API_URL": f"http://127.0.0.1:{self.ports[0]}/api", "COLUMNS": "200"}
        command = [BIN / "minimind", "up", "--prefect-port", str(self.ports[0]), "--mlflow-port", str(self.ports[1])]
        self.log = directory / "up.log"
        environment = {**clean, "MINIMIND_HOME": str(self.home), "COLUMNS": "200", **more}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command, cwd=CHECKOUT, env=environment, stdout=log, stderr=subprocess.STDOUT
            )

    def said(self) -> str:
        return self.log.read_text()

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + 180
        while "Ctrl-C stops all of it" not in self.said():
            assert self.process.poll() is None and time.monotonic() < deadline, self.said()
            time.sleep(0.5)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(90)

    def run(self, deployment: str, *parameters: str) -> subprocess.CompletedProcess[str]:
        options = [option for parameter in parameters for option in ("-p", parameter)]
        command = [BIN / "prefect", "deployment", "run", deployment, *options, "--watch"]
        return subprocess.run(
            command, cwd=CHECKOUT, env=self.shell, capture_output=True, text=True, timeout=400, check=False
        )


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    started = Up(tmp_path_factory.mktemp("up"))
    try:
        started.wait_until_ready()
        yield started
    finally:
        started.stop()


def test_both_pages_answer_and_every_stage_is_a_deployment_with_a_form(up: Up):
    prefect, mlflow = (f"http://127.0.0.1:{port}" for port in up.ports)
    assert httpx.get(f"{mlflow}/health").text == "OK"
    assert "<html" in httpx.get(prefect, follow_redirects=True).text.lower()
    found = {
        d["name"] + "/" + str(d["entrypoint"]): d
        for d in httpx.post(f"{prefect}/api/deployments/filter", json={}).json()
    }
    stages = {entry.rpartition(".")[2] for entry in found}
    assert {"full_pipeline", "pretrain", "sft", "dpo", "lora", "distill", "evaluate", "publish", "tokenizer"} <= stages
    sft = next(d for entry, d in found.items() if entry.endswith(".sft"))
    properties = sft["parameter_openapi_schema"]["properties"]
    assert properties["lr"]["description"] == "Peak of the learning rate; else the recipe's."
    assert properties["init"]["default"] == "models:/minimind-pretrain@candidate"


def test_a_plain_shell_runs_the_pipeline_and_then_one_stage(up: Up):
    done = up.run("full-pipeline/local", *(f"{name}={json.dumps(value)}" for name, value in up.parameters.items()))
    assert done.returncode == 0 and "Completed" in done.stdout, done.stdout + done.stderr
    again = up.run("sft/local", f"recipe={json.dumps(up.parameters['recipe'])}", "lr=0.0001")
    assert again.returncode == 0 and "Completed" in again.stdout, again.stdout + again.stderr
    runs = httpx.post(f"http://127.0.0.1:{up.ports[0]}/api/flow_runs/filter", json={}).json()
    assert {run["state_name"] for run in runs} == {"Completed"}


def test_no_page_from_elsewhere_reaches_the_servers(up: Up):
    """Neither by a name that was bound to 127.0.0.1, nor by a form; and nothing listens for other machines."""
    asked = {
        f"http://127.0.0.1:{up.ports[0]}/api/flow_runs/filter": {},
        f"http://127.0.0.1:{up.ports[1]}/api/2.0/mlflow/experiments/search": {"max_results": 1},
    }
    for url, question in asked.items():
        port = httpx.URL(url).port
        for name in ("127.0.0.1", "localhost"):
            answer = httpx.post(url, json=question, headers={"host": f"{name}:{port}"})
            assert answer.status_code == 200, (url, answer.text)
        for foreign in (
            {"host": f"evil.example:{port}"},
            {"host": f"192.168.1.7:{port}"},
            {"origin": "http://evil.example"},
        ):
            answer = httpx.post(url, json=question, headers=foreign)
            assert answer.status_code == 403, (url, foreign, answer.text)
            assert "access-control-allow-origin" not in answer.headers
    family = [psutil.Process(up.process.pid), *psutil.Process(up.process.pid).children(recursive=True)]
    listening = {c.laddr.ip for one in family for c in one.net_connections("inet") if c.status == psutil.CONN_LISTEN}
    assert listening == {"127.0.0.1"}


def test_a_server_that_is_killed_is_started_again(up: Up):
    """The flows that run hang on the process beside it; they must not end with a page."""
    family = psutil.Process(up.process.pid).children()
    (mlflow,) = [one for one in family if "mlflow" in one.cmdline()]
    others = [one for one in family if one != mlflow]
    os.killpg(mlflow.pid, signal.SIGKILL)
    deadline = time.monotonic() + 180
    while True:
        assert time.monotonic() < deadline, up.said()
        time.sleep(0.5)
        try:
            if httpx.get(f"http://127.0.0.1:{up.ports[1]}/health", timeout=2).text == "OK":
                break
        except httpx.HTTPError:
            continue
    assert "mlflow ended (exit code -9); it is started again in 1 s" in up.said()
    assert all(one.is_running() for one in others)


def test_a_flow_outlives_prefects_server(up: Up):
    """It ends well, and the server that is started again is told so."""
    options = ["-p", f"recipe={json.dumps(up.parameters['recipe'])}", "-p", "lr=0.0003"]
    command = [BIN / "prefect", "deployment", "run", "sft/local", *options]
    subprocess.run(command, cwd=CHECKOUT, env=up.shell, check=True, capture_output=True)
    deadline = time.monotonic() + 180
    while not [*up.home.glob("artifacts/sft/.*.scratch/events.jsonl")]:
        assert time.monotonic() < deadline, up.said()
        time.sleep(0.05)
    (prefect,) = [c for c in psutil.Process(up.process.pid).children() if "flows.prefect_server" in c.cmdline()]
    os.killpg(prefect.pid, signal.SIGKILL)
    while True:
        assert time.monotonic() < deadline, up.said()
        time.sleep(0.5)
        try:
            runs = httpx.post(f"http://127.0.0.1:{up.ports[0]}/api/flow_runs/filter", json={}).json()
        except httpx.HTTPError:
            continue
        if {run["state_name"] for run in runs} == {"Completed"}:
            break
    assert "prefect ended (exit code -9); it is started again in 1 s" in up.said()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_takes_everything_down(tmp_path: Path, number: int):
    """No server, worker or training may outlive its shell; nor one started with `&`, which ignores SIGINT."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        started = Up(tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)
    started.wait_until_ready()
    family = psutil.Process(started.process.pid).children(recursive=True)
    assert len(family) >= 3
    started.process.send_signal(number)
    assert started.process.wait(90) == 0, started.said()
    gone, alive = psutil.wait_procs(family, timeout=10)
    assert not alive


def test_a_killed_up_leaves_no_server_behind(tmp_path: Path):
    started = Up(tmp_path)
    started.wait_until_ready()
    family = psutil.Process(started.process.pid).children(recursive=True)
    started.process.kill()
    started.process.wait(10)
    gone, alive = psutil.wait_procs(family, timeout=40)
    assert not alive, [p.cmdline() for p in alive]


def test_with_nothing_up_a_deployment_cannot_be_run():
    """Prefect alone would file the run on a temporary server, say success, and nobody would execute it."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MINIMIND_"))}
    command = [BIN / "prefect", "deployment", "run", "full-pipeline/local"]
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", 4200)) == 0:
            pytest.skip("something listens on Prefect's port 4200")
    done = subprocess.run(command, cwd=CHECKOUT, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode != 0


def test_a_port_that_is_taken_is_said_so(tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [BIN / "minimind", "up", "--prefect-port", port]
        environment = {**os.environ, "MINIMIND_HOME": str(tmp_path)}
        done = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"port {port} is taken" in done.stderr
