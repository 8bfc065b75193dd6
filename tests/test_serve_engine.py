"""The server over real engines with a tiny trained model: what is asked arrives, and what is drawn comes back."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI
from server_process import ServerProcess, eventually, serving

from minimind.tokens.chat import render_prompt
from minimind.tokens.tokenizer import Tokenizer

QUESTION = [{"role": "user", "content": "今天天气很好 the small boat"}]


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that makes another model of `base`."""
    import torch

    from minimind.model.lora import apply_lora, lora_state, save_adapter
    from minimind.model.weights import load_model

    model = load_model(base)
    apply_lora(model, rank=2, alpha=8, targets=["q_proj", "o_proj", "down_proj"])
    with torch.no_grad():
        for name, matrix in lora_state(model).items():
            if name.endswith("lora_B"):
                matrix.normal_(generator=torch.Generator().manual_seed(0))
    directory = tmp_path_factory.mktemp("adapter")
    save_adapter(directory, model, targets=["q_proj", "o_proj", "down_proj"], base=None)
    return directory


@pytest.fixture(scope="module")
def server(base: Path, adapter: Path) -> Iterator[ServerProcess]:
    with serving({"tiny": base}, real=True, adapters=[f"medical={adapter}"], precision="fp32", threads=1) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


def ask(client: OpenAI, **options: Any) -> Any:
    return client.chat.completions.create(
        **{"model": "tiny", "messages": QUESTION, "max_tokens": 12, "seed": 1, **options}
    )


def text_of(done: Any) -> str:
    return done.choices[0].message.content


def test_a_seed_gives_the_same_answer_whole_or_streamed(client: OpenAI) -> None:
    """And another seed another one; choices of one request differ among themselves."""
    whole = text_of(ask(client))
    assert whole and whole == "".join(chunk.choices[0].delta.content or "" for chunk in ask(client, stream=True))
    three = [choice.message.content for choice in ask(client, n=3).choices]
    assert three[0] == whole and len(set(three)) == 3
    assert three == [choice.message.content for choice in ask(client, n=3).choices]


def test_tokens_are_counted_as_the_chat_format_has_them(client: OpenAI, tokenizer: Tokenizer) -> None:
    """The prompt that the model saw is the one that training would have shown it."""
    usage = ask(client).usage
    assert usage.prompt_tokens == len(render_prompt(QUESTION, tokenizer)) and usage.completion_tokens <= 12
    again = ask(client).usage
    assert again.prompt_tokens_details.cached_tokens <= again.prompt_tokens


def test_likelihoods_are_of_the_tokens_that_were_drawn(client: OpenAI) -> None:
    """Greedy takes the likeliest, so the drawn token is the first of the likeliest; their texts join to the answer."""
    done = ask(client, temperature=0, logprobs=True, top_logprobs=3)
    tokens = done.choices[0].logprobs.content
    assert b"".join(bytes(token.bytes) for token in tokens).decode("utf-8", "replace").startswith(text_of(done)[:5])
    assert all(token.token == token.top_logprobs[0].token and len(token.top_logprobs) == 3 for token in tokens)
    assert len(tokens) == done.usage.completion_tokens


def test_a_bias_forces_a_token(client: OpenAI, tokenizer: Tokenizer) -> None:
    """Ids on the wire are strings; the engine must get numbers."""
    (token,) = tokenizer.encode("water")[-1:]
    done = client.completions.create(
        model="tiny", prompt="the ", max_tokens=3, temperature=0, logit_bias={str(token): 100}
    )
    assert done.choices[0].text == tokenizer.decode([token] * 3)


def test_an_object_is_json(client: OpenAI) -> None:
    """Whatever a model of 600 pieces would rather say, unless its tokens ran out."""
    done = ask(client, response_format={"type": "json_object"}, max_tokens=300, temperature=0.5)
    if done.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(text_of(done)), dict)
    assert text_of(done).lstrip().startswith("{")


def test_a_prompt_beyond_the_context_is_told_so(client: OpenAI) -> None:
    """With a word that programs look for, also in a stream."""
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            ask(client, messages=[{"role": "user", "content": "water " * 2000}], stream=stream)
        assert caught.value.code == "context_length_exceeded"


def test_an_adapter_answers_under_its_own_name(client: OpenAI) -> None:
    """Side by side with its base, in one engine."""
    base, medical = (text_of(ask(client, model=model, temperature=0)) for model in ("tiny", "medical"))
    assert base != medical
    card = client.models.retrieve("medical")
    assert card.parent == "tiny" and client.models.retrieve("tiny").parameters > 10_000


def test_many_at_once_get_what_they_would_get_alone(client: OpenAI) -> None:
    """An answer does not depend on its neighbours, nor on the order in which they came."""
    seeds = list(range(8))
    alone = [text_of(ask(client, seed=seed)) for seed in seeds]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda seed: text_of(ask(client, seed=seed)), seeds))
    assert together == alone


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_the_command_serves_a_directory(base: Path, tmp_path: Path) -> None:
    """`minimind serve DIR`, asked as its own start-up message says, and ended by Ctrl-C."""
    program = "import typer; from minimind.cli.serve import serve; typer.run(serve)"
    command = [sys.executable, "-c", program, f"tiny={base}", "--port", "0", "--threads", "1"]
    environment = {**os.environ, "MINIMIND_HOME": str(tmp_path), "MINIMIND_API_KEY": "k", "COLUMNS": "300"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        try:
            curl = next(line for line in process.stdout if line.startswith("curl "))
            shell = ["sh", "-c", curl.replace("curl ", "curl --silent ")]
            done = subprocess.run(shell, capture_output=True, text=True, check=True, env=environment)
            assert json.loads(done.stdout)["model"] == "tiny"
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


@pytest.mark.slow
def test_a_killed_engine_comes_back_with_the_same_answers(server: ServerProcess, client: OpenAI) -> None:
    """SIGKILL in the middle of a stream: an error there, and the same model a moment later."""
    before = text_of(ask(client))
    with pytest.raises(openai.APIError, match="engine was lost"):
        for number, _ in enumerate(ask(client, stream=True, max_tokens=400)):
            if number == 3:
                server.engines()[0].kill()
    assert eventually(lambda: _answers(client), 60)
    assert text_of(ask(client)) == before


def _answers(client: OpenAI) -> bool:
    try:
        return bool(ask(client).choices)
    except openai.APIError:
        return False
