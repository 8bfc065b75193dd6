"""The sides of `benchmarks/infer.py`: prompts of 128 tokens, 128 tokens behind each, one answer or eight at once.

Every variant gives tokens per CPU second of reading a prompt (`prefill`) and of greedy answers (`decode_1`,
`decode_8`), from the second token on. The prompts are random and all different, so no cache of prompts helps anyone.
Peers run without the loops their libraries put around a step; our engine runs as it serves: queue, sampling, text and
all.
"""

import json
import tempfile
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minimind.model.config import PRESETS
from minimind.model.transformer import Transformer

PRESET = PRESETS["minimind2-small"]
PROMPT, NEW, ROWS = 128, 128, 8
ROUNDS = 3

Step = Callable[[Tensor], Tensor]
"""Tokens B×T that follow those before → scores B×V behind the last."""


def model() -> Transformer:
    """The preset with random weights, larger than at the start of a training: greedy answers are not one token."""
    made = Transformer(PRESET, seed=0).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim > 1:
                parameter.mul_(2)
    return made


def prompts(count: int, *, seed: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(300, PRESET.vocab_size, (count, PROMPT), generator=generator).tolist()


def stepping(begin: Callable[[], Step]) -> dict[str, float]:
    """The figures of a peer; `begin` gives the step of a fresh cache."""

    def answered(rows: int, *, seed: int) -> tuple[float, float]:
        step, tokens = begin(), torch.tensor(prompts(rows, seed=seed))
        began = time.process_time()
        tokens = step(tokens).argmax(-1, keepdim=True)
        read = time.process_time()
        for _ in range(NEW - 1):
            tokens = step(tokens).argmax(-1, keepdim=True)
        return read - began, time.process_time() - read

    with torch.inference_mode():
        return _figures(answered)


def _figures(answered: Callable[..., tuple[float, float]]) -> dict[str, float]:
    """From CPU seconds for (reading, answering) with so many rows: one round to warm up, the best of the others.

    The best: what disturbs a round on a shared machine only ever adds to it. Variants are compared over repeats.
    """
    answered(1, seed=0)
    answered(ROWS, seed=1)
    ones = [answered(1, seed=10 + round_) for round_ in range(ROUNDS)]
    eights = [answered(ROWS, seed=20 + round_) for round_ in range(ROUNDS)]
    return {
        "prefill": PROMPT / min(read for read, _ in ones),
        "decode_1": (NEW - 1) / min(told for _, told in ones),
        "decode_8": ROWS * (NEW - 1) / min(told for _, told in eights),
    }


def upstream(_: Path) -> dict[str, Any]:
    """Upstream in fp32, its only dtype on a CPU."""
    from benchmarks.peers_infer import upstream_logits
    from benchmarks.peers_train import Upstream

    peer = Upstream(PRESET).eval()
    peer.load_state_dict(model().state_dict())

    def begin() -> Step:
        cache: Any = [None] * PRESET.num_layers
        return lambda tokens_BT: upstream_logits(peer, tokens_BT, cache)[:, -1]

    return stepping(begin)


def hugging_face(cache_kind: str, dtype: torch.dtype) -> Callable[[Path], dict[str, Any]]:
    """Hugging Face's Llama, by its own cache."""

    def run(_: Path) -> dict[str, Any]:
        from transformers import DynamicCache, StaticCache

        from benchmarks.peers_train import llama_of

        peer = llama_of(PRESET).eval()
        peer.load_state_dict(model().state_dict(), strict=False)
        peer = peer.to(dtype)

        def begin() -> Step:
            if cache_kind == "dynamic":
                cache: Any = DynamicCache(config=peer.config)
            else:
                cache = StaticCache(config=peer.config, max_cache_len=PROMPT + NEW)
            return lambda tokens_BT: peer(tokens_BT, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[
                :, -1
            ]

        return stepping(begin)

    return run


def ours(precision: str) -> Callable[[Path], dict[str, Any]]:
    """This project's engine."""

    def run(path: Path) -> dict[str, Any]:
        from minimind.infer.engine import Engine
        from minimind.infer.network import Network
        from minimind.infer.products import use_huge_pages
        from minimind.infer.sampling import Sampling
        from minimind.tokens.tokenizer import Tokenizer

        use_huge_pages()  # as `load` does
        engine = Engine(Network(model(), precision), Tokenizer.load(path), max_batch=ROWS)
        # Random weights end answers early; those tokens are forbidden.
        sampling = Sampling(temperature=0, max_tokens=NEW, logit_bias=dict.fromkeys(range(3), -100.0))

        def spent(rows: int, count: int, seed: int) -> float:
            asked, began = prompts(rows, seed=seed), time.process_time()
            for prompt in asked:
                engine.ask(prompt, sampling.replace(max_tokens=count))
            while engine.busy:
                engine.step()
            return time.process_time() - began

        def answered(rows: int, *, seed: int) -> tuple[float, float]:
            read = spent(rows, 1, seed + 1000)
            return read, spent(rows, NEW, seed) - read

        return _figures(answered)

    return run


def llama_cpp(kind: str) -> Callable[[Path], dict[str, Any]]:
    """llama.cpp by its own server, as it comes but for one thread, with the GGUF of `minimind export`."""

    def run(path: Path) -> dict[str, Any]:
        import xllamacpp

        from minimind.export.gguf_model import write_gguf
        from minimind.tokens.tokenizer import Tokenizer

        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / "model.gguf"
            state = model().state_dict()
            write_gguf(file, PRESET, state, tokenizer=Tokenizer.load(path), kind=kind, name="model")
            settings = xllamacpp.CommonParams()
            settings.model.path = str(file)
            settings.n_parallel, settings.n_ctx = ROWS, 2 * ROWS * (PROMPT + NEW)
            settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
            settings.verbosity = -1
            server = xllamacpp.Server(settings)
            with ThreadPoolExecutor(ROWS) as pool:

                def complete(prompt: list[int], count: int) -> None:
                    always = {"temperature": 0.0, "cache_prompt": False, "ignore_eos": True}
                    body = json.dumps({"prompt": prompt, "n_predict": count, **always}).encode()
                    with urllib.request.urlopen(f"{server.listening_address}/completion", body) as answer:  # noqa: S310
                        assert json.loads(answer.read())["tokens_predicted"] == count

                def spent(rows: int, count: int, seed: int) -> float:
                    began = time.process_time()
                    list(pool.map(lambda prompt: complete(prompt, count), prompts(rows, seed=seed)))
                    return time.process_time() - began

                def answered(rows: int, *, seed: int) -> tuple[float, float]:
                    read = spent(rows, 1, seed + 1000)
                    return read, spent(rows, NEW, seed) - read

                return _figures(answered)

    return run


VARIANTS = {
    "upstream": upstream,
    "hf_bf16": hugging_face("dynamic", torch.bfloat16),
    "hf_bf16_static": hugging_face("static", torch.bfloat16),
    "hf_fp32": hugging_face("dynamic", torch.float32),
    "hf_fp32_static": hugging_face("static", torch.float32),
    "ours_fp32": ours("fp32"),
    "ours_fp16": ours("fp16"),
    "ours_bf16": ours("bf16"),
    "ours_int8": ours("int8"),
    "ours_int4": ours("int4"),
    "llama_cpp_bf16": llama_cpp("bf16"),
    "llama_cpp_q8_0": llama_cpp("q8_0"),
}
