"""The published chat model through MLflow's own doors: `mlflow.pyfunc.load_model`, and its server over HTTP."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Tracked
from engine_parts import GivenModel, given_model

from minimind.artifact import MANIFEST_FILE, Artifact, Store, verify
from minimind.stage import Stage, build
from tasks.registry import CHAMPION
from tasks.tracking import Tracker

CHECKOUT = Path(__file__).resolve().parents[1]
HELLO = {"messages": [{"role": "user", "content": "hello 你好"}]}
GREEDY = {"temperature": 0.0, "repetition_penalty": 50.0, "max_tokens": 6}
NAME = "models:/minimind-chat"


PUBLISH = Stage("publish", given_model)


@pytest.fixture(scope="module")
def home(base: Path, tracked: Tracked, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A store whose tracking server has one published model, with pickle switched off as it is under `minimind up`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
        home = tmp_path_factory.mktemp("served")
        tracker = tracked(home)
        registration = tracker.record(build(PUBLISH, GivenModel(path=str(base)), {}, store=Store(home))[0])
        tracker.set_alias(str(registration.name), CHAMPION, str(registration.uri))
        yield home


@pytest.fixture(scope="module")
def published(home: Path) -> Artifact:
    return next(iter(Store(home).all()))


@pytest.fixture(scope="module")
def model(home: Path) -> Any:
    import mlflow

    Tracker(home)  # another module's tests may have asked another server since
    return mlflow.pyfunc.load_model(f"{NAME}/1")


def text(answers: list[dict[str, Any]]) -> list[str]:
    return [answer["text"] for answer in answers]


def test_a_question_is_answered_in_every_form(model: Any):
    """One question as a conversation, as words, as one of several, as a table: one answer."""
    import pandas as pd

    (expected,) = model.predict(HELLO, params=GREEDY)
    assert expected["completion_tokens"] == 6 and expected["finish_reason"] == "length" and expected["text"]
    question = {"question": "hello 你好"}
    assert model.predict(question, params=GREEDY) == [expected]
    assert model.predict([question, question], params=GREEDY) == [expected, expected]
    assert model.predict([HELLO, HELLO], params=GREEDY) == [expected, expected]
    assert model.predict(pd.DataFrame([question]), params=GREEDY) == [expected]


def test_the_answer_is_that_of_every_other_door(model: Any, base: Path):
    """A pyfunc that rendered its prompts another way would be another model."""
    from minimind.infer.generate import complete, load, prompt_ids
    from minimind.infer.sampling import Sampling

    loaded = load(base)
    for row, raw in (({"question": "你好 boat"}, False), ({"prompt": "the small boat"}, True)):
        ids = prompt_ids(loaded.tokenizer, next(iter(row.values())), raw=raw)
        done = complete(loaded, ids, sampling=Sampling(**GREEDY))
        (answer,) = model.predict(row, params=GREEDY)
        assert (answer["text"], answer["completion_tokens"]) == (
            done.text if raw else done.text.lstrip("\n"),
            done.tokens,
        )


def test_a_seed_gives_the_same_answer_and_none_another(model: Any):
    params = {"temperature": 5.0, "max_tokens": 12, "top_p": 1.0}
    seeded = [text(model.predict(HELLO, params=params | {"seed": 1})) for _ in range(2)]
    assert seeded[0] == seeded[1]
    assert len({text(model.predict(HELLO, params=params))[0] for _ in range(3)}) == 3


def test_calls_of_tools_and_earlier_turns_pass_the_signature(model: Any):
    """OpenAI's messages have more keys than role and content; the signature must not refuse them."""
    call = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    turns = [
        {"role": "system", "content": "Add."},
        {"role": "user", "content": [{"type": "text", "text": "1 + 1?"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "2", "tool_call_id": "call_1"},
    ]
    plain = {"name": "add", "parameters": {"type": "object"}}
    tools = [{"type": "function", "function": plain}]
    (with_tools,) = model.predict({"messages": turns, "tools": tools}, params=GREEDY)
    (without,) = model.predict({"messages": turns}, params=GREEDY)
    assert with_tools["prompt_tokens"] > without["prompt_tokens"]


@pytest.mark.parametrize(
    ("rows", "params", "words"),
    [
        ({"messages": "hello"}, {}, "Failed to enforce schema"),
        ({"messages": [{"content": "no role"}]}, {}, "Failed to enforce schema"),
        ({"messages": []}, {}, "row 1: empty_text"),
        ({"messages": [{"role": "robot", "content": "x"}]}, {}, "row 1: bad_role"),
        ({"question": " "}, {}, "row 1: empty_text: question is blank"),
        ({"question": "word " * 400}, {}, "the model's context of 512 has no room"),
        (["hello"], {}, "there is nothing to answer; give rows such as"),
        (HELLO, {"max_tokens": 0}, "params: `max_tokens`"),
    ],
)
def test_what_cannot_be_asked_is_the_callers_fault(model: Any, rows: Any, params: dict[str, Any], words: str):
    """Status 400, and a sentence that says what is wrong."""
    from mlflow.exceptions import MlflowException

    with pytest.raises(MlflowException, match=re.escape(words)) as caught:
        model.predict(rows, params=params)
    assert caught.value.get_http_status_code() == 400


def test_the_page_shows_signature_example_and_packages(home: Path):
    """What stands beside the model in the registry; no address and no place of this machine is in it."""
    import mlflow

    Tracker(home)
    info = mlflow.models.get_model_info(f"{NAME}@{CHAMPION}")
    assert {"messages", "question", "prompt", "tools"} == set(info.signature.inputs.input_names())
    assert {"temperature", "max_tokens", "stop", "seed"} <= {param.name for param in info.signature.params}
    assert set(info.flavors) == {"python_function"} and "pickle" not in json.dumps(info.flavors)
    place = Path(mlflow.artifacts.download_artifacts(f"{NAME}/1"))
    example = json.loads((place / "input_example.json").read_text(encoding="utf-8"))
    assert example["messages"][0]["role"] == "user"
    requirements = (place / "requirements.txt").read_text(encoding="utf-8").split()
    assert all(re.fullmatch(r"[a-z]+==[\w.]+", line) for line in requirements) and len(requirements) > 5
    for name in ("MLmodel", "conda.yaml", "python_env.yaml", "requirements.txt"):
        assert not re.search(r"(?<![\w.:/-])/\w+|https?://", (place / name).read_text(encoding="utf-8"))


def test_the_artifact_stays_what_its_manifest_says(home: Path, published: Artifact):
    """MLflow's files belong to the registry: not to the store, and not to what comes back from there."""
    before = sorted(path.name for path in published.dir.iterdir())
    assert "MLmodel" not in before
    shutil.rmtree(published.dir)
    fetched = Tracker(home).resolve(f"{NAME}/1", Store(home))
    verify(fetched)
    assert sorted(path.name for path in fetched.dir.iterdir()) == before
    assert {entry.path for entry in fetched.manifest.files} == {*before} - {MANIFEST_FILE}


def ask(address: str, body: bytes, content_type: str = "application/json") -> tuple[int, str]:
    request = urllib.request.Request(f"{address}/invocations", body, {"Content-Type": content_type})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode("utf-8")
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode("utf-8")


@pytest.fixture(scope="module")
def address(home: Path) -> Iterator[str]:
    """`mlflow models serve` on the champion, as a user types it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = {"MLFLOW_TRACKING_URI": Tracker(home).uri, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", f"{NAME}@{CHAMPION}", "--env-manager", "local"]
    with (home / "serve.log").open("wb") as log:
        server = subprocess.Popen(
            [*command, "--port", str(port)],
            cwd=home,
            env=os.environ | variables | {"DO_NOT_TRACK": "true", "OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 120
        while not _answers(port):
            assert server.poll() is None and time.monotonic() < deadline, (home / "serve.log").read_text()[-3000:]
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, 15)  # it runs uvicorn in a shell below it
        server.wait(30)


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False


@pytest.mark.slow
def test_mlflows_server_answers_chat_and_plain(address: str, model: Any):
    """The bodies that MLflow's documentation and OpenAI's clients send."""
    (expected,) = model.predict(HELLO, params=GREEDY)
    status, answer = ask(address, json.dumps(HELLO | GREEDY).encode())
    assert (status, json.loads(answer)) == (200, [expected])
    question = {"question": "hello 你好"}
    for rows in ({"inputs": [HELLO, HELLO]}, {"inputs": [question] * 2}, {"dataframe_records": [question] * 2}):
        status, answer = ask(address, json.dumps(rows | {"params": GREEDY}).encode())
        assert (status, json.loads(answer)) == (200, {"predictions": [expected, expected]})
    status, answer = ask(address, json.dumps({"prompt": "the small boat"} | GREEDY).encode())
    assert status == 200 and json.loads(answer)[0]["prompt_tokens"] < expected["prompt_tokens"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b'{"messages": "hello"}',
        b'{"messages": []}',
        b'{"messages": [{"role": "user", "content": "x"}], "max_tokens": -1}',
        b'{"messages": [{"role": "user", "content": "x"}], "temperature": "hot"}',
        b'{"question": "\\ud800"}',
        b'{"inputs": ["hello"]}',
        b'{"inputs": []}',
        b'{"inputs": 5}',
        b'{"dataframe_records": [{"question": "x"}, {"prompt": ""}]}',
        json.dumps({"question": "word " * 4000}).encode(),
    ],
)
def test_a_bad_body_is_a_400_and_the_server_lives(address: str, body: bytes):
    status, answer = ask(address, body)
    assert status == 400, answer
    assert ask(address, json.dumps(HELLO | GREEDY).encode())[0] == 200
