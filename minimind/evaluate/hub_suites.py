"""Well-known benchmark sets by name: fetched from the hub once, kept as rows of our own, used without a network after.

Splits, columns and cleaning are those of EleutherAI's lm-evaluation-harness 0.4.13, so that figures can be compared
with published ones. The files are those of the branch that the hub itself converts every set to: Parquet, one folder a
subject and split, also for sets whose own branch has a program, which `datasets` no longer runs.

Not here: what a model is asked and how its answers are scored, few-shot examples (their splits are not fetched).
"""

import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from minimind.config import nearest
from minimind.data.reading.hub import hub_files
from minimind.data.reading.remote import reason_of
from minimind.errors import ArtifactError, ConfigError, DataError, ServiceError
from minimind.runtime import file_sha256, write_atomic

CONVERTED = "refs/convert/parquet"
"""The branch that the hub makes: `<config>/<split>/0000.parquet`."""
LETTERS = "ABCD"
_BRACKETS = re.compile(r"\[.*?\]")
_log = logging.getLogger(__name__)
Row = Mapping[str, Any]


@dataclass(frozen=True)
class HubSuite:
    """Where a set is, and how a row of it becomes one of ours."""

    dataset: str
    """Its name on the hub, or a folder of the converted branch's layout."""
    config: str
    """The part that is asked, or a pattern of several."""
    split: str
    language: Literal["en", "zh"]
    licence: str
    """As its page says; the rows are under it."""
    read: Callable[[Row], dict[str, Any]]
    """Question, choices and answer of a row; id and subject where it has them."""
    kind: Literal["choices", "cloze"] = "choices"
    """Whether a question is asked, or a beginning gone on with, which a row then has as `context`."""
    config_is_subject: bool = False


def fetch(name: str, directory: Path, *, limit: int | None = None, refresh: bool = False) -> Path:
    """The set as `<directory>/<name>.jsonl`, a row `{id, question, choices, answer, subject, lang, source}` a line.

    A cloze has `context` in the place of `question`. A file that is there is used; `refresh` fetches anew. With `limit`
    so many rows, spread evenly over the set, are in `<name>-<limit>.jsonl` beside it. The order is the hub's, subjects
    by name. Raises ConfigError for an unknown name, ServiceError where the hub cannot be reached, DataError where its
    rows are not as they were, and ArtifactError where the file is not what was fetched.
    """
    suite = _suite(name)
    if limit is not None and limit < 1:
        raise ConfigError(f"benchmark set {name}: `limit` is {limit}; give 1 or more, or none for all rows")
    path = directory / f"{name}.jsonl"
    if refresh or not path.is_file():
        lines = [json.dumps(row, ensure_ascii=False) for row in _rows(name, suite)]
        directory.mkdir(parents=True, exist_ok=True)
        _sum_path(path).unlink(missing_ok=True)
        write_atomic(path, "".join(f"{line}\n" for line in lines))
        write_atomic(_sum_path(path), file_sha256(path))
        _log.info("benchmark set %s: %d rows of %s, licence %s", name, len(lines), suite.dataset, suite.licence)
    _prove(path)
    return path if limit is None else _limited(path, limit)


def _suite(name: str) -> HubSuite:
    if name not in SUITES:
        raise ConfigError(f"no benchmark set `{name}`{nearest(name, list(SUITES))}")
    return SUITES[name]


def _sum_path(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _prove(path: Path) -> None:
    """A file without a sum was put there by somebody, who answers for it."""
    own = _sum_path(path)
    if own.exists() and own.read_bytes() != file_sha256(path).encode():
        raise ArtifactError(
            f"{path}: is not what was fetched; delete it and it is fetched again, or delete {own.name} if you put it "
            "there yourself"
        )


def _limited(path: Path, limit: int) -> Path:
    lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    if len(lines) <= limit:
        return path
    shorter = path.with_name(f"{path.stem}-{limit}.jsonl")
    write_atomic(shorter, "".join(f"{lines[number * len(lines) // limit]}\n" for number in range(limit)))
    return shorter


def _rows(name: str, suite: HubSuite) -> Iterator[dict[str, Any]]:
    """All rows of a set as ours, config by config."""
    for config, rows in _tables(name, suite).items():
        source = f"{suite.dataset}/{config}/{suite.split}"
        own = config if suite.config_is_subject else name
        for number, row in enumerate(rows):
            try:
                item = {"id": f"{own}-{number}", "subject": own, **suite.read(row)}
                fitting = 0 <= item["answer"] < len(item["choices"])
            except (KeyError, ValueError, AttributeError, TypeError) as error:
                what = f"no column `{error.args[0]}`" if isinstance(error, KeyError) else str(error)
                raise DataError(_changed(name, source, number, what)) from None
            if not fitting:
                raise DataError(_changed(name, source, number, f"answer {item['answer']} is none of its choices"))
            asked = {"question" if suite.kind == "choices" else "context": item["question"]}
            rest = {key: item[key] for key in ("choices", "answer", "subject")}
            yield {"id": item["id"], **asked, **rest, "lang": suite.language, "source": source}


def _changed(name: str, source: str, number: int, what: str) -> str:
    return (
        f"benchmark set {name}: row {number} of {source} is not as it was when this program was written ({what}); "
        f"get the rows another way and give them with `--{SUITES[name].kind} FILE`"
    )


def _tables(name: str, suite: HubSuite) -> dict[str, Any]:
    """Config → its rows as `datasets` has them."""
    import datasets

    remedy = (
        f"fetch it on a machine with a network and copy {name}.jsonl here, or give rows of your own with "
        f"`--{suite.kind} FILE`"
    )
    pattern = f"{suite.config}/{suite.split}/*.parquet"
    tried = f"{pattern} of {suite.dataset} ({CONVERTED})"
    if datasets.config.HF_HUB_OFFLINE and not Path(suite.dataset).is_dir():
        raise ServiceError(
            f"benchmark set {name}: not here yet, and HF_HUB_OFFLINE forbids to fetch {tried}; unset it, or {remedy}"
        )
    try:
        places = sorted(hub_files(suite.dataset, file=pattern, revision=CONVERTED).places.values())
        configs: dict[str, list[str]] = {}
        for place in places:
            configs.setdefault(PurePosixPath(place).parts[-3], []).append(place)
        # As splits of one set, since then one call fetches all files at once; a name like ARC-Easy could be none.
        splits = {f"config{number}": files for number, files in enumerate(configs.values())}
        tables = datasets.load_dataset("parquet", data_files=splits)
    except Exception as error:  # which HTTP library's errors come out depends on the hub client's version
        why = reason_of(error).partition(";")[0]
        raise ServiceError(
            f"benchmark set {name}: {tried} cannot be fetched: {why}; check the network, or {remedy}"
        ) from None
    return dict(zip(configs, (tables[split] for split in splits), strict=True))


def _exam(question: str, answer: str) -> Callable[[Row], dict[str, Any]]:
    """A reader of sets whose four choices are columns A to D, and whose answer is a letter."""

    def read(row: Row) -> dict[str, Any]:
        choices = [row[letter] for letter in LETTERS]
        return {"question": row[question].strip(), "choices": choices, "answer": LETTERS.index(row[answer].strip())}

    return read


def _mmlu(row: Row) -> dict[str, Any]:
    parts = {"question": row["question"].strip(), "choices": row["choices"], "answer": row["answer"]}
    return parts | {"subject": row["subject"]}


def _keyed(question: str) -> Callable[[Row], dict[str, Any]]:
    """A reader of AI2's sets: the answer is the label of a choice, A to E or, in some rows of ARC, 1 to 5."""

    def read(row: Row) -> dict[str, Any]:
        choices, key = row["choices"], row["answerKey"].strip()
        answer = choices["label"].index(key)
        return {"id": row["id"], "question": row[question], "choices": choices["text"], "answer": answer}

    return read


def _piqa(row: Row) -> dict[str, Any]:
    return {"question": row["goal"], "choices": [row["sol1"], row["sol2"]], "answer": row["label"]}


def _hellaswag(row: Row) -> dict[str, Any]:
    """The beginning of a text, and ways to go on."""
    beginning = f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}"
    choices = [_without_marks(ending) for ending in row["endings"]]
    return {"question": _without_marks(beginning), "choices": choices, "answer": int(row["label"])}


def _without_marks(text: str) -> str:
    """Half of HellaSwag comes from WikiHow, whose headings are left in it as `[header]`, `[title]`, `[step]`."""
    bare = _BRACKETS.sub("", text.strip().replace(" [title]", ". "))
    return bare.replace("  ", " ")


SUITES: dict[str, HubSuite] = {
    "ceval": HubSuite(
        "ceval/ceval-exam", "*", "val", "zh", "CC BY-NC-SA 4.0", _exam("question", "answer"), "choices", True
    ),
    "cmmlu": HubSuite(
        "haonan-li/cmmlu", "*", "test", "zh", "CC BY-NC 4.0", _exam("Question", "Answer"), "choices", True
    ),
    "mmlu": HubSuite("cais/mmlu", "all", "test", "en", "MIT", _mmlu),
    "arc_easy": HubSuite("allenai/ai2_arc", "ARC-Easy", "test", "en", "CC BY-SA 4.0", _keyed("question")),
    "arc_challenge": HubSuite("allenai/ai2_arc", "ARC-Challenge", "test", "en", "CC BY-SA 4.0", _keyed("question")),
    "hellaswag": HubSuite("Rowan/hellaswag", "*", "validation", "en", "MIT", _hellaswag, "cloze"),
    "piqa": HubSuite("baber/piqa", "*", "validation", "en", "AFL 3.0", _piqa),
    "openbookqa": HubSuite("allenai/openbookqa", "main", "test", "en", "not stated", _keyed("question_stem"), "cloze"),
}
"""The splits whose answers are public."""
