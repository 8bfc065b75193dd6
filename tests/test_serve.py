"""The server's life: loads, losses, swaps and ends. Nobody's answer is dropped, and no process is left behind."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from server_process import ServerProcess, eventually, serving

CHAT = "/v1/chat/completions"


@pytest.fixture
def echo(tmp_path: Path) -> Path:
    (tmp_path / "echo").mkdir()
    return tmp_path / "echo"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Two places, two seats to wait, for one model."""
    with serving({"echo": tmp_path_factory.mktemp("echo")}, max_batch=2, max_waiting=2, requests=5) as server:
        yield server


def body(text: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **fields}


def ask(server: ServerProcess, text: str, **fields: Any) -> httpx.Response:
    return httpx.post(server.url + CHAT, json=body(text, **fields), timeout=30)


def said(response: httpx.Response) -> str:
    return response.json()["choices"][0]["message"]["content"]


def gauge(server: ServerProcess, name: str) -> float:
    lines = httpx.get(server.url + "/metrics").text.splitlines()
    return float(next(line.split()[-1] for line in lines if line.startswith(f"minimind_{name}{{")))


def test_one_request_too_many_is_told_when_to_come_back(server: ServerProcess) -> None:
    """Two are answered and two wait; the rest get 429 at once, not a place in an endless queue."""
    with ThreadPoolExecutor(7) as pool:
        taken = [pool.submit(ask, server, ":wait=0.3 a b") for _ in range(4)]
        assert eventually(lambda: gauge(server, "waiting") == 2)
        started = time.monotonic()
        refused = [pool.submit(ask, server, "x").result() for _ in range(2)]
        assert time.monotonic() - started < 0.5
        assert [done.status_code for done in refused] == [429, 429]
        assert int(refused[0].headers["retry-after"]) >= 1
        assert [said(done.result()) for done in taken] == ["a b"] * 4
    assert said(ask(server, "x")) == "x"


def test_a_client_that_leaves_frees_its_place(server: ServerProcess) -> None:
    """In the middle of a stream, before its first token, and while it waits for a whole answer."""
    for text, fields in ((":times=100 :wait=0.1 a", {"stream": True}), (":hang", {"stream": True}), (":hang", {})):
        content = json.dumps(body(text, **fields)).encode()
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        connection = socket.create_connection(("127.0.0.1", server.port))
        connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        assert eventually(lambda: gauge(server, "running") == 1)
        connection.close()
        left = time.monotonic()
        assert eventually(lambda: gauge(server, "running") == 0, 5)
        assert time.monotonic() - left < 1
    assert server.log_text().count("the client left") == 3


def test_figures_are_counted(server: ServerProcess) -> None:
    """What a dashboard is made of."""
    ask(server, "a b c")
    text = httpx.get(server.url + "/metrics").text
    assert f'minimind_requests_total{{model="echo",route="{CHAT}",status="200"}}' in text
    for name in ("time_to_first_token", "time_between_tokens", "request"):
        assert f'minimind_{name}_seconds_bucket{{le="+Inf",model="echo"}}' in text
    assert gauge(server, "prompt_tokens_total") > 0 and gauge(server, "cached_prompt_tokens_total") > 0


def test_the_log_has_a_line_for_every_request(server: ServerProcess) -> None:
    """Who asked for what, how much it was and how long it took; not what was said."""
    done = ask(server, "geheim zwei")
    said = done.headers["x-request-id"]  # written behind the answer
    line = eventually(lambda: next((line for line in server.log_text().splitlines() if said in line), None))
    assert f"POST {CHAT} 200 echo 2+2 tokens" in line and "geheim" not in server.log_text()


def test_the_schema_describes_what_is_there(server: ServerProcess) -> None:
    """Code generators read it."""
    schema = httpx.get(server.url + "/openapi.json").json()
    assert {"/v1/chat/completions", "/v1/completions", "/v1/models", "/health", "/metrics"} <= schema["paths"].keys()
    chat = schema["paths"][CHAT]["post"]
    assert chat["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/ChatQuestion")
    assert {"200", "4XX", "5XX"} == chat["responses"].keys()


def test_the_server_knows_no_torch(server: ServerProcess) -> None:
    """Seconds of its start, and half a gigabyte."""
    maps = Path(f"/proc/{server.process.pid}/maps").read_text()
    assert "site-packages" in maps and "torch" not in maps


def test_a_lost_engine_is_replaced(echo: Path) -> None:
    """Its answers end with an error that says so, and the next request is answered by another."""
    with serving({"echo": echo}) as server, ThreadPoolExecutor(2) as pool:
        (first,) = server.engines()
        whole = pool.submit(ask, server, ":hang")
        with httpx.stream("POST", server.url + CHAT, json=body("a :hang", stream=True), timeout=30) as stream:
            lines = stream.iter_lines()
            assert '"content":"a"' in "".join(line for line, _ in zip(lines, range(3), strict=False))
            assert eventually(lambda: gauge(server, "running") == 2)
            first.send_signal(signal.SIGKILL)
            rest = "".join(lines)
        assert '"code":"engine_failure"' in rest and "[DONE]" not in rest
        assert whole.result().status_code == 503 and whole.result().json()["error"]["code"] == "engine_failure"
        assert eventually(lambda: httpx.get(server.url + "/health").status_code == 200)
        assert said(ask(server, "x")) == "x" and gauge(server, "engine_restarts") == 1
        assert server.engines()[0].pid != first.pid


@pytest.mark.slow
def test_an_engine_that_cannot_come_back_is_said_to_be_down(echo: Path) -> None:
    """503 with the reason, again and again tried, and well as soon as it can be."""
    with serving({"echo": echo}) as server:
        (echo / "fails.txt").write_text("out of memory")
        server.engines()[0].kill()
        assert eventually(lambda: "out of memory" in httpx.get(server.url + "/health").text)
        assert httpx.get(server.url + "/health").status_code == 503
        refused = ask(server, "x")
        assert refused.status_code == 503 and refused.json()["error"]["code"] == "engine_failure"
        (echo / "fails.txt").unlink()
        assert eventually(lambda: httpx.get(server.url + "/health").status_code == 200)
        assert said(ask(server, "x")) == "x"


@pytest.mark.slow
def test_an_engine_that_hangs_is_not_well(echo: Path) -> None:
    """A process that is there and says nothing is the fault that a look at the process table misses."""
    with serving({"echo": echo}) as server:
        (engine,) = server.engines()
        engine.suspend()
        time.sleep(5.1)  # what was heard before counts for so long
        health = httpx.get(server.url + "/health", timeout=20)
        engine.resume()
        assert health.status_code == 503 and "no token within" in health.json()["models"]["echo"]
        assert eventually(lambda: httpx.get(server.url + "/health", timeout=20).status_code == 200)


@pytest.mark.slow
def test_a_moved_alias_is_followed_without_a_dropped_request(tmp_path: Path) -> None:
    """Under load from four clients: every request is answered, by the old version first and then by the new one."""
    versions = {}
    for name in ("old", "new"):
        versions[name] = tmp_path / name
        versions[name].mkdir()
        (versions[name] / "says.txt").write_text(name)
    alias = tmp_path / "champion"
    alias.write_text(str(versions["old"]))
    stop, answers = threading.Event(), []

    def ask_on(server: ServerProcess) -> None:
        with httpx.Client(base_url=server.url, timeout=30) as client:
            while not stop.is_set():
                answers.append(client.post(CHAT, json=body(":wait=0.01 a b c")))

    with serving({"echo": alias}, refresh_seconds=0.2) as server, ThreadPoolExecutor(5) as pool:
        with httpx.stream("POST", server.url + CHAT, json=body(":times=30 :wait=0.1 a", stream=True)) as long_one:
            clients = [pool.submit(ask_on, server) for _ in range(4)]
            assert eventually(lambda: len(answers) > 20)
            (versions["new"] / "load_seconds.txt").write_text("0.5")
            alias.write_text(str(versions["new"]))
            assert eventually(lambda: said(answers[-1]).startswith("new"))
            assert len(server.engines()) == 2, "the old engine ended before its last answer"
            assert "[DONE]" in "".join(long_one.iter_lines())
        stop.set()
        [client.result() for client in clients]
        assert {done.status_code for done in answers} == {200}
        assert {said(done) for done in answers} == {"old a b c", "new a b c"}
        assert eventually(lambda: len(server.engines()) == 1) and gauge(server, "engine_swaps") == 1
        card = httpx.get(server.url + "/v1/models/echo").json()
        assert card["created"] == int(versions["new"].stat().st_mtime)


@pytest.mark.slow
def test_a_version_that_does_not_load_changes_nothing(tmp_path: Path) -> None:
    """The old one answers, the operator is told, and the next version is tried."""
    good, bad, better = (tmp_path / name for name in ("good", "bad", "better"))
    for directory in (good, bad, better):
        directory.mkdir()
    (bad / "fails.txt").write_text("its weights are damaged")
    (better / "says.txt").write_text("better")
    alias = tmp_path / "champion"
    alias.write_text(str(good))
    with serving({"echo": alias}, refresh_seconds=0.1) as server:
        alias.write_text(str(bad))
        assert eventually(lambda: httpx.get(server.url + "/health").json()["warnings"])
        health = httpx.get(server.url + "/health")
        assert health.status_code == 200 and "weights are damaged" in health.json()["warnings"][0]
        assert said(ask(server, "x")) == "x"
        time.sleep(0.5)
        assert server.log_text().count("does not load") == 1, "it was tried again"
        alias.write_text(str(better))
        assert eventually(lambda: said(ask(server, "x")) == "better x")
        assert httpx.get(server.url + "/health").json()["warnings"] == []
        alias.unlink()
        assert eventually(lambda: httpx.get(server.url + "/health").json()["warnings"])
        assert said(ask(server, "x")) == "better x"


def test_a_stopping_server_finishes_its_answers(echo: Path) -> None:
    """SIGTERM: new requests are sent away, the one under way gets its last word, and the exit is clean."""
    with serving({"echo": echo}) as server:
        engines = server.engines()
        with httpx.Client(base_url=server.url) as second, ThreadPoolExecutor(1) as pool:
            slow = pool.submit(ask, server, ":wait=0.2 a b c d e")
            assert eventually(lambda: gauge(server, "running") == 1)
            second.get("/health")
            server.process.send_signal(signal.SIGTERM)
            assert eventually(lambda: second.get("/health").json()["status"] == "stopping")
            refused = second.post(CHAT, json=body("x"))
            assert refused.status_code == 503 and refused.headers["connection"] == "close"
            assert said(slow.result()) == "a b c d e"
        assert server.process.wait(10) == 0
        assert not any(engine.is_running() for engine in engines)


@pytest.mark.slow
@pytest.mark.parametrize(("grace", "signals"), [(0.3, 1), (60, 2)])
def test_a_server_that_is_in_a_hurry_says_why_it_cuts(echo: Path, grace: float, signals: int) -> None:
    """After the grace, or at the second signal: streams end with an error, not in silence."""
    with serving({"echo": echo}, grace_seconds=grace) as server:
        with httpx.stream("POST", server.url + CHAT, json=body("a :hang", stream=True), timeout=30) as stream:
            lines = stream.iter_lines()
            next(lines)
            for _ in range(signals):
                server.process.send_signal(signal.SIGINT)
                time.sleep(0.2)
            assert '"code":"stopping"' in "".join(lines)
        assert server.process.wait(5) == 0


@pytest.mark.slow
def test_a_killed_server_leaves_no_engine(echo: Path) -> None:
    """SIGKILL asks nobody; the engines see the end of their sockets."""
    with serving({"echo": echo}) as server:
        engines = server.engines()
        server.process.kill()
        server.process.wait()
        assert engines and eventually(lambda: not any(map(_alive, engines)))


@pytest.mark.slow
def test_a_server_stopped_while_it_loads_ends(echo: Path) -> None:
    """Ctrl-C in the first minute must not need a second terminal."""
    (echo / "load_seconds.txt").write_text("30")
    command = [sys.executable, str(Path(__file__).with_name("server_process.py"))]
    values = json.dumps({"models": {"echo": str(echo)}, "real": False})
    process = subprocess.Popen([*command, values], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        children = eventually(lambda: psutil.Process(process.pid).children())
        process.send_signal(signal.SIGINT)
        assert process.wait(15) == 0
        assert not any(map(_alive, children))
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"host": "0.0.0.0"}, "lets others in"),
        ({"keys": [" "]}, "an API key is empty"),
        ({"host": "no.such.host.invalid", "no_auth": True}, "cannot listen on"),
        ({"adapters": ["x=/nowhere"]}, "adapter_config.json"),
        ({"adapters": ["x"]}, "NAME=DIRECTORY"),
        ({"models": {"echo": "/nowhere"}}, "No such file"),
    ],
)
def test_a_server_that_cannot_start_says_why(echo: Path, options: dict[str, Any], message: str) -> None:
    """One look at the last line is enough."""
    done = _failed_start({"models": {"echo": str(echo)}, **options})
    assert message in done.splitlines()[-1]


def test_a_model_that_does_not_load_ends_the_start(echo: Path) -> None:
    """With the engine's own words; the port is free again."""
    (echo / "fails.txt").write_text("the tokenizer has 7 tokens and the model 9")
    assert "the tokenizer has 7 tokens" in _failed_start({"models": {"echo": str(echo)}}).splitlines()[-1]


def test_a_taken_port_is_known_at_once(echo: Path) -> None:
    """Before a model is loaded for minutes."""
    (echo / "load_seconds.txt").write_text("30")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        values = {"models": {"echo": str(echo)}, "port": taken.getsockname()[1]}
        started = time.monotonic()
        assert "Address already in use" in _failed_start(values).splitlines()[-1]
        assert time.monotonic() - started < 15


def _failed_start(values: dict[str, Any]) -> str:
    command = [sys.executable, str(Path(__file__).with_name("server_process.py"))]
    command.append(json.dumps({"real": False, **values}))
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env={**os.environ})
    assert done.returncode != 0
    return done.stderr


def _alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
