"""llama.cpp in this process, to be asked what it makes of a GGUF file: ids, log-probabilities, greedy answers.

It is xllamacpp's server on a free port of the loopback, with all in fp32 that llama.cpp can have so: the cache, and no
fused attention. One thread for a sum always in the same order. Not here: serving (`minimind.serve`).
"""

import json
import os
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minimind.errors import StageError

_CERTAIN = 1e4
"""Added to a logit, it makes its token the one that is drawn. The probabilities that are reported are those before."""


class LlamaCpp:
    """A loaded GGUF file."""

    def __init__(self, server: Any) -> None:
        self._address = server.listening_address
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({})
        )  # a proxy does not know our loopback

    def encode(self, text: str, *, parse_special: bool = False) -> list[int]:
        """The ids of a text."""
        body = {"content": text, "add_special": True, "parse_special": parse_special}
        return self._ask("/tokenize", body)["tokens"]

    def chat_ids(self, chat: Sequence[Mapping[str, str]]) -> list[int]:
        """The ids of a conversation that an answer is to follow, by the template in the file."""
        prompt = self._ask("/apply-template", {"messages": [dict(message) for message in chat]})["prompt"]
        return self.encode(prompt, parse_special=True)

    def log_probs(self, ids: Sequence[int], *, vocab_size: int, drawn: int) -> Tensor:
        """log p of every token behind `ids`, as V numbers. `drawn` is a token that is a whole character.

        (The server reports probabilities with a text, and none while a character is incomplete.)
        """
        body = {"n_predict": 1, "n_probs": vocab_size, "logit_bias": [[drawn, _CERTAIN]]}
        answer = self._complete(ids, body)["completion_probabilities"]
        found = torch.full((vocab_size,), float("nan"))
        for token in answer[0]["top_logprobs"]:
            found[token["id"]] = token["logprob"]
        return found

    def greedy(self, ids: Sequence[int], *, count: int) -> list[int]:
        """The likeliest tokens behind `ids`, up to `count`, with the one that ended them."""
        return self._complete(ids, {"n_predict": count, "return_tokens": True})["tokens"]

    def _complete(self, ids: Sequence[int], body: dict[str, Any]) -> dict[str, Any]:
        # Not the cache of the prompt before: a prompt cut otherwise is summed in another order.
        always = {"prompt": list(ids), "temperature": 0.0, "repeat_penalty": 1.0, "cache_prompt": False}
        return self._ask("/completion", {**always, **body})

    def _ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(  # noqa: S310  of our own server
            self._address + path, data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
        )
        with self._opener.open(request) as answer:
            return json.loads(answer.read())


@contextmanager
def llama_cpp(path: Path, *, context: int) -> Iterator[LlamaCpp]:
    """llama.cpp with the file at `path`. Raises StageError where it does not take it."""
    import xllamacpp as x

    settings = x.CommonParams()
    settings.model.path = str(path)
    settings.n_ctx, settings.n_batch, settings.n_ubatch = context, context, context
    settings.n_parallel, settings.cpuparams.n_threads, settings.cpuparams_batch.n_threads = 1, 1, 1
    settings.warmup = settings.ui = settings.fit_params = False
    settings.n_gpu_layers = 0
    settings.cache_type_k = settings.cache_type_v = x.ggml_type.GGML_TYPE_F32
    settings.flash_attn_type = x.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    settings.verbosity = -1
    with _quiet():
        try:
            server = x.Server(settings)
        except RuntimeError as error:
            raise StageError(f"{path}: llama.cpp does not load it ({error})") from None
        try:
            yield LlamaCpp(server)
        finally:
            del server


@contextmanager
def _quiet() -> Iterator[None]:
    """llama.cpp writes to the process's stderr itself, below Python."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        with suppress(OSError):
            os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
