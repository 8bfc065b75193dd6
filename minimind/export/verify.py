"""Load what was written with the library it is for, and compare it with the model it was written from.

Compared are logits at every position of the probes (llama.cpp: log-probabilities of the whole vocabulary at some), the
ids of texts and chats, and greedy answers. What a file is compared with is our model with the numbers that the file
holds, so a fault of the conversion is not hidden by rounding; what rounding costs is told beside it.

Tolerances. transformers computes in fp32 here. So does llama.cpp with f32; with other types it rounds what it
multiplies to the type of the matrix. Measured as shares of the greatest logit, on presets with random weights: fp32 up
to 1e-5, f16 3e-3, bf16 7e-3, q8_0 9e-2; on a trained model 5e-7, 4e-4, 3e-3 and 8e-3. q in the wrong order costs half
of the greatest logit. Where a rounding sends a token to another expert all its logits differ, by 0.6 of the greatest at
single positions: so of experts the median over positions is judged, which was up to 4e-3, 3e-2 and 7e-2; and greedy
answers of rounded experts are told, not judged.

The libraries are imported here only, and only when asked. Not here: what is read (`probes`), what is printed.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minimind.errors import MissingError, StageError
from minimind.export.gguf_model import GgufType, rounded
from minimind.export.llama_cpp import LlamaCpp, llama_cpp
from minimind.export.probes import (
    ANSWER_TOKENS,
    CHATS,
    LONGEST,
    TEXTS,
    Probe,
    parts_without_reason,
    probes,
    until_stop,
)
from minimind.export.settings import DTYPES, Check, ExportConfig, Format
from minimind.model.transformer import Transformer
from minimind.tokens.chat import render_prompt
from minimind.tokens.tokenizer import Tokenizer

TOLERANCE = 1e-4
"""What is allowed where all is computed in fp32."""
GGUF_TOLERANCES: dict[GgufType, float] = {"f32": TOLERANCE, "f16": 1e-2, "bf16": 5e-2, "q8_0": 2e-1}
_PLACES = (1, 2, 31, 300)
"""Prompts' lengths after which llama.cpp is asked, and at their ends: it tells only what follows the last token."""


def verify_hf(folder: Path, model: Transformer, tokenizer: Tokenizer, *, config: ExportConfig) -> Check:
    """Compare with what stock transformers makes of the folder. Raises MissingError without transformers."""
    _require("transformers")
    dtype = DTYPES[config.dtype]
    held = _with(model, {name: tensor.to(dtype).float() for name, tensor in model.state_dict().items()})
    with _quiet_transformers():
        from transformers import AutoModelForCausalLM, AutoTokenizer

        stock = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
        subject = _Subject("hf", config.dtype, held, tokenizer, _logits_of(stock), _answer_of(stock))
        unequal = _unequal_ids(AutoTokenizer.from_pretrained(folder, local_files_only=True), tokenizer)
        return _compare(subject, model, tolerance=TOLERANCE, unequal_ids=unequal)


def verify_gguf(path: Path, model: Transformer, tokenizer: Tokenizer, *, config: ExportConfig) -> Check:
    """Compare with what llama.cpp makes of the file. Raises MissingError without xllamacpp."""
    _require("xllamacpp")
    held = _with(model, rounded(model.state_dict(), config.gguf_type))
    with llama_cpp(path, context=LONGEST + ANSWER_TOKENS + 1) as theirs:
        unequal = sum(theirs.encode(text) != tokenizer.encode(text) for text in TEXTS)
        unequal += sum(theirs.chat_ids(chat) != render_prompt(chat, tokenizer) for chat in CHATS)
        answer = partial(theirs.greedy, count=ANSWER_TOKENS)
        subject = _Subject("gguf", config.gguf_type, held, tokenizer, _log_probs_of(theirs, tokenizer), answer)
        return _compare(subject, model, tolerance=GGUF_TOLERANCES[config.gguf_type], unequal_ids=unequal)


def verify_adapter(adapter: Path, base: Path, model: Transformer, tokenizer: Tokenizer) -> Check:
    """Compare the merged model with what peft makes of the adapter on the base that was exported to `base`."""
    _require("transformers", "peft")
    with _quiet_transformers():
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        stock = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, local_files_only=True)
        adapted = PeftModel.from_pretrained(stock, str(adapter)).eval()
        subject = _Subject("adapter", "fp32", model, tokenizer, _logits_of(adapted), _answer_of(adapted))
        return _compare(subject, model, tolerance=TOLERANCE, unequal_ids=0)


def require_passed(checks: Sequence[Check]) -> None:
    """Raise StageError with what is wrong in the first check that failed."""
    failed = next((check for check in checks if not check.passed), None)
    if failed is None:
        return
    what = []
    if failed.relative > failed.tolerance or failed.relative != failed.relative:
        what.append(
            f"logits differ by {failed.relative:.1e} of the greatest one at {failed.positions} positions, "
            f"{failed.tolerance:.0e} is allowed"
        )
    if failed.unequal_ids:
        what.append(f"{failed.unequal_ids} of {failed.texts} texts have other ids")
    if failed.unequal_greedy:
        what.append(f"{failed.unequal_greedy} of {failed.greedy} greedy answers differ without a near-tie")
    raise StageError(
        f"--verify: {failed.format} ({failed.stored}) in {failed.library}: {'; '.join(what)}; nothing was written"
    )


Compared = tuple[Tensor, Tensor]
"""Ours and theirs, of equal shapes: N positions × V."""


@dataclass(frozen=True)
class _Subject:
    """A file as its library has loaded it, and our model with the numbers that are in it."""

    format: Format
    stored: str
    held: Transformer
    tokenizer: Tokenizer
    logits: Callable[[Probe], Compared]
    answer: Callable[[list[int]], list[int]]


def _compare(subject: _Subject, model: Transformer, *, tolerance: float, unequal_ids: int) -> Check:
    read = probes(subject.held, subject.tokenizer)
    pairs = [subject.logits(probe) for probe in read]
    differences_N = torch.cat([(ours - theirs).abs().amax(-1) for ours, theirs in pairs]).nan_to_num(nan=float("inf"))
    difference = float(differences_N.max())
    answers = [(probe, until_stop(subject.answer(probe.ids), subject.tokenizer)) for probe in read]
    parted = [(probe, theirs) for probe, theirs in answers if theirs != probe.answer]
    wrong = sum(parts_without_reason(subject.held, probe, theirs, difference=difference) for probe, theirs in parted)
    rerouting = bool(model.config.num_experts) and tolerance > TOLERANCE
    return Check(
        format=subject.format,
        stored=subject.stored,
        library=_library(subject.format),
        positions=len(differences_N),
        difference=difference,
        typical=float(differences_N.median()),
        judged="typical" if model.config.num_experts else "difference",
        scale=max(float(probe.logits_TV.abs().max()) for probe in read),
        tolerance=tolerance,
        rounding=0.0 if subject.held is model else max(_apart(model, probe) for probe in read),
        texts=0 if subject.format == "adapter" else len(TEXTS) + len(CHATS),
        unequal_ids=unequal_ids,
        greedy=len(read),
        near_ties=len(parted) - wrong,
        rerouted=wrong if rerouting else 0,
        unequal_greedy=0 if rerouting else wrong,
    )


def _with(model: Transformer, state: Mapping[str, Tensor]) -> Transformer:
    """Another model of the same shape."""
    with torch.device("meta"):
        other = Transformer(model.config)
    other.load_state_dict(dict(state), assign=True)
    return other.eval()


def _apart(model: Transformer, probe: Probe) -> float:
    """How far the logits of `model` are from the probe's."""
    with torch.inference_mode():
        return float((model(torch.tensor([probe.ids]))[0] - probe.logits_TV).abs().max())


def _unequal_ids(stock: Any, tokenizer: Tokenizer) -> int:
    """Of how many texts and chats a tokenizer of transformers gives other ids than ours."""
    unequal = sum(
        stock.encode(text, add_special_tokens=False, split_special_tokens=True) != tokenizer.encode(text)
        for text in TEXTS
    )
    for chat in CHATS:
        ids = stock.apply_chat_template(list(chat), add_generation_prompt=True, return_dict=True)["input_ids"]
        unequal += list(ids) != render_prompt(chat, tokenizer)
    return unequal


def _logits_of(stock: Any) -> Callable[[Probe], Compared]:
    def logits(probe: Probe) -> Compared:
        with torch.inference_mode():
            return probe.logits_TV, stock(torch.tensor([probe.ids])).logits[0].float()

    return logits


def _answer_of(stock: Any) -> Callable[[list[int]], list[int]]:
    def answer(ids: list[int]) -> list[int]:
        given = torch.tensor([ids])
        made = stock.generate(
            input_ids=given, attention_mask=torch.ones_like(given), max_new_tokens=ANSWER_TOKENS, do_sample=False
        )
        return made[0, len(ids) :].tolist()

    return answer


def _log_probs_of(theirs: LlamaCpp, tokenizer: Tokenizer) -> Callable[[Probe], Compared]:
    drawn = tokenizer.encode("a")[-1]

    def log_probs(probe: Probe) -> Compared:
        lengths = sorted({min(place, len(probe.ids)) for place in (*_PLACES, len(probe.ids))})
        found = [theirs.log_probs(probe.ids[:n], vocab_size=tokenizer.vocab_size, drawn=drawn) for n in lengths]
        return probe.logits_TV[[n - 1 for n in lengths]].log_softmax(-1), torch.stack(found)

    return log_probs


def _require(*packages: str) -> None:
    for package in packages:
        try:
            metadata.version(package)
        except metadata.PackageNotFoundError:
            raise MissingError(
                f'--verify needs {package}, which is not installed: pip install "minimind-pipeline[verify]"'
            ) from None


def _library(kind: Format) -> str:
    names = {"hf": ("transformers",), "gguf": ("xllamacpp",), "adapter": ("peft",)}[kind]
    return ", ".join(f"{name} {metadata.version(name)}" for name in names)


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Without progress bars and remarks, which are put back afterwards."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
