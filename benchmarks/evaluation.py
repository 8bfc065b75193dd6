"""The bar of multiple choice: this project's scorer against lm-eval's own backend, both behind lm-eval's interface.

The same 200 questions of about 100 tokens with four choices of about 10, the same minimind2-small with random weights
(for the backend as `minimind export --to hf` writes it), the same ids: the stock tokenizer puts <|endoftext|> first, as
ours does. Measured are items per CPU second of `loglikelihood`, texts to log-probabilities, one thread; building the
prompts and counting the points is the harness's part for both. Every batch size of the backend is a variant, and the
best of them is the baseline. `mean_log_prob` shows that all did the same work.

    python -m benchmarks.evaluation --repeats 5

Not here: generating (`benchmarks/infer.py`), assertions.
"""

import json
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.bars import Bar, main
from benchmarks.harness import sample_corpus
from benchmarks.token_sets import CACHE, tokenizer_of
from minimind.model.config import PRESETS
from minimind.runtime import Precision, cpu_multiplies_bf16

PRESET = PRESETS["minimind2-small"]
ITEMS, QUESTION, CHOICE, CHOICES = 200, 100, 10, 4
"""Items, tokens of a question, tokens of a choice, choices."""
WARM = 4
"""Items that are scored before the clock runs."""
BATCHES = (1, 8, 32)
DTYPES: dict[Precision, str] = {"fp32": "float32"} | ({"bf16": "bfloat16"} if cpu_multiplies_bf16() else {})
MODEL_DIR, HF_DIR, ITEMS_FILE = "model", "hf", "items.jsonl"


def prepare(count: int = ITEMS) -> Path:
    """A folder with the model, its export and the items."""
    import torch

    from minimind.export.exporting import export_model
    from minimind.export.settings import ExportConfig
    from minimind.model.transformer import Transformer
    from minimind.model.weights import save_model
    from minimind.tokens.tokenizer import Tokenizer

    folder, corpus = CACHE / f"evaluation-{count}", sample_corpus(CACHE, megabytes=8)
    if (folder / ITEMS_FILE).exists():
        return folder
    tokenizer = Tokenizer.load(tokenizer_of(corpus, vocab_size=PRESET.vocab_size))
    model = Transformer(PRESET, seed=0)
    with torch.no_grad():  # fresh weights give every choice nearly the same
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(2)
    tokenizer.copy_to(folder / MODEL_DIR)
    save_model(folder / MODEL_DIR, model)
    export_model(folder / MODEL_DIR, folder / HF_DIR, config=ExportConfig(to=("hf",), dtype="fp32"), force=True)
    with corpus.open(encoding="utf-8") as file:
        text = "\n".join(json.loads(next(file))["text"] for _ in range(400))
    lines = [json.dumps(item, ensure_ascii=False) for item in _items(tokenizer, text, count)]
    (folder / ITEMS_FILE).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return folder


def _items(tokenizer: Any, text: str, count: int) -> list[dict[str, Any]]:
    """Stretches of a text, and other stretches to choose from."""
    rng, ids = random.Random(0), tokenizer.encode(text)

    def stretch(length: int) -> str:
        at = rng.randrange(len(ids) - length)
        return " ".join(tokenizer.decode(ids[at : at + length]).split())

    return [{"question": stretch(QUESTION), "choices": [stretch(CHOICE) for _ in range(CHOICES)]} for _ in range(count)]


def ours(precision: Precision) -> Callable[[Path], dict[str, Any]]:
    """This project's model and scorer, as `run_lm_eval` uses them."""

    def run(folder: Path) -> dict[str, Any]:
        from minimind.evaluate.lm_eval import MiniMindLM

        return _figures(MiniMindLM(folder / MODEL_DIR, device="cpu", precision=precision), folder)

    return run


def hugging_face(precision: Precision, batch_size: int) -> Callable[[Path], dict[str, Any]]:
    """lm-eval's Hugging Face backend as it comes, at a batch size."""

    def run(folder: Path) -> dict[str, Any]:
        from lm_eval.models.huggingface import HFLM
        from transformers import AutoTokenizer

        place = str(folder / HF_DIR)
        tokenizer = AutoTokenizer.from_pretrained(place, bos_token="<|endoftext|>", add_bos_token=True)
        options = {"dtype": DTYPES[precision], "device": "cpu", "batch_size": batch_size}
        return _figures(HFLM(place, tokenizer=tokenizer, add_bos_token=True, **options), folder)

    return run


def _figures(lm: Any, folder: Path) -> dict[str, Any]:
    """Items per CPU second."""
    from lm_eval.api.instance import Instance

    def requests(items: Sequence[dict[str, Any]]) -> list[Instance]:
        pairs = [
            (f"Question: {item['question']}\nAnswer:", f" {choice}") for item in items for choice in item["choices"]
        ]
        return [Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=0) for pair in pairs]

    items = [json.loads(line) for line in (folder / ITEMS_FILE).read_text(encoding="utf-8").splitlines()]
    lm.loglikelihood(requests(items[:WARM]), disable_tqdm=True)
    asked, began = requests(items), time.process_time()
    answers = lm.loglikelihood(asked, disable_tqdm=True)
    spent = time.process_time() - began
    mean = fmean(log_prob for log_prob, _ in answers)
    return {"items_per_second": len(items) / spent, "cpu_seconds": spent, "mean_log_prob": mean}


def _hf(precision: Precision) -> tuple[str, ...]:
    return tuple(f"hf_{precision}_{batch_size}" for batch_size in BATCHES)


VARIANTS = {f"ours_{precision}": ours(precision) for precision in DTYPES} | {
    name: hugging_face(precision, batch_size)
    for precision in DTYPES
    for name, batch_size in zip(_hf(precision), BATCHES, strict=True)
}
ALL_HF = tuple(name for precision in DTYPES for name in _hf(precision))
BARS = (
    *(
        Bar(
            f"items in {precision}, × lm-eval's backend in it",
            f"ours_{precision}",
            _hf(precision),
            2.0,
            "items_per_second",
        )
        for precision in DTYPES
    ),
    *(
        [Bar("items in bf16, × the best of lm-eval's backend", "ours_bf16", ALL_HF, 2.0, "items_per_second")]
        if "bf16" in DTYPES
        else []
    ),
)
TITLE = "Multiple choice: minimind2-small, one thread, items per CPU second"


if __name__ == "__main__":
    main("benchmarks.evaluation", TITLE, BARS, VARIANTS, shown=("items_per_second", "mean_log_prob"), prepare=prepare)
