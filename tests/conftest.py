"""Small sealed artifacts for all tests: a bilingual corpus, a tokenizer learnt from it, and token sets of each kind.

Built once a session by the real stages, from text made of fixed word lists by a seeded generator.
"""

import os
import random
import shutil
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from minimind.artifact import Artifact, Inputs, Store, Summary
from minimind.config import Config
from minimind.data.documents import RowKind, check_row
from minimind.data.dropped import DROPPED_FILE
from minimind.data.sharding import SHARD, ShardConfig
from minimind.data.shards import ROWS_DIR, write_rows
from minimind.stage import Stage, build
from minimind.tokens.tokenizer import Tokenizer
from minimind.tokens.tokenizer_training import TOKENIZER, TokenizerConfig
from minimind.tokens.tokenizing import TOKENS, TokensConfig

pytest.register_assert_rewrite("faulted")
os.environ.pop("COLUMNS", None)  # 80 in the processes of pytest-xdist, where tables would be cut

Command = Callable[..., tuple[int, str, str]]
SealCorpus = Callable[..., Artifact]
Tracked = Callable[[Path], Any]

ENGLISH = (
    "the small boat sails over a quiet river while two old friends talk about bread and stars "
    "every morning she opens her window reads one page then writes three lines of code def return if else "
    "water light stone garden paper music number answer question because never always under between"
)
CHINESE = (
    "今天天气很好，我们去公园散步。 小猫在窗边睡觉，阳光照在它的身上。 他每天早上读书，晚上写字。 "
    "春天来了，花开了，鸟儿在树上唱歌。 老师问了一个问题，学生想了很久才回答。 水是生命的源头。"
)


LONGEST = ("test_pipeline", "test_running", "test_kills", "test_exact", "test_resume", "test_reference")
"""Files of minutes: begun first, or one core ends long after the others."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.stem not in LONGEST)


class GivenRows(Config):
    """Rows as they stand, in the place of what ingest and clean would have made."""

    rows: RowKind
    values: list[dict[str, Any]]
    sources: int = 1
    """Sources the rows are of in turn: `given`, `given1`, …"""


def given_rows(config: GivenRows, _: Inputs, out_dir: Path) -> Summary:
    """The payload of a clean stage with just the given rows."""
    rows = []
    for line, value in enumerate(config.values, 1):
        row = check_row(config.rows, value)
        source = f"given{line % config.sources or ''}"
        rows.append({**row, "source": source, "line": line, "group": row["id"]})
    write_rows(out_dir / ROWS_DIR, config.rows, rows)
    (out_dir / DROPPED_FILE).touch()
    return Summary(figures={"rows": len(rows)})


GIVEN_ROWS = Stage("clean", given_rows)


def english(rng: random.Random) -> str:
    words = rng.choices(ENGLISH.split(), k=rng.randint(4, 14))
    return " ".join(words).capitalize() + rng.choice([".", ".", "?", "!", ": 1, 20, 305."])


def chinese(rng: random.Random) -> str:
    return "".join(rng.choices(CHINESE.split(), k=rng.randint(1, 4)))


def sentence(rng: random.Random) -> str:
    return chinese(rng) if rng.random() < 0.3 else english(rng)


def documents(count: int, *, seed: int = 0) -> list[str]:
    """Texts of one to eight sentences, English and Chinese, some with line feeds and indented code."""
    rng = random.Random(seed)
    made = []
    for number in range(count):
        lines = [sentence(rng) for _ in range(rng.randint(1, 8))]
        if number % 5 == 0:
            lines.append(f"def f{number}(x):\n    if x:\n        return x + {number}\n\n")
        made.append(rng.choice(["\n", "\n\n", " "]).join(lines))
    return made


def conversations(count: int, *, seed: int = 1) -> list[dict[str, Any]]:
    """Chat rows: plain, with a system turn, of several turns, with reasoning, with tools."""
    rng = random.Random(seed)
    rows = []
    for number in range(count):
        turns: list[dict[str, Any]] = []
        if number % 3 == 0:
            turns.append({"role": "system", "content": english(rng)})
        for _ in range(1 + number % 3):
            turns += [
                {"role": "user", "content": sentence(rng)},
                {"role": "assistant", "content": sentence(rng)},
            ]
        if number % 4 == 0:
            turns[-1]["reasoning_content"] = english(rng)
        if number % 6 == 0:
            turns[0]["tools"] = '[{"name": "add", "parameters": {}}]'
            turns[-1]["tool_calls"] = '[{"name": "add", "arguments": {"a": 1}}]'
            turns += [{"role": "tool", "content": "2"}, {"role": "assistant", "content": "It is 2."}]
        rows.append({"conversations": turns})
    return rows


def preferences(count: int, *, seed: int = 2) -> list[dict[str, Any]]:
    """Preference rows: the chosen answer ends in "Thank you.", the rejected one in "No."."""
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        prompt, answer = {"role": "user", "content": sentence(rng)}, english(rng)
        sides = {
            name: [prompt, {"role": "assistant", "content": f"{answer} {end}"}]
            for name, end in (("chosen", "Thank you."), ("rejected", "No."))
        }
        rows.append(sides)
    return rows


@pytest.fixture
def minimind(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command line in this process, which spares seconds of imports: exit code, what it printed, its errors."""
    from minimind.cli.app import main

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["minimind", *words])
        with patch.dict(os.environ), pytest.raises(SystemExit) as ended:  # it leaves settings of Prefect's there
            main()
        return int(ended.value.code or 0), *capsys.readouterr()

    return run


@pytest.fixture(scope="session")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Tracked:
    """`tracked(home)`: MLflow on a database in `home`, a copy of an empty one, since making one takes seconds."""
    from tasks.runs import create_database
    from tasks.tracking import Tracker

    empty = tmp_path_factory.mktemp("mlflow")
    create_database(empty)

    def in_home(home: Path) -> Tracker:
        home.mkdir(parents=True, exist_ok=True)
        shutil.copy(empty / "mlflow.db", home)
        with closing(sqlite3.connect(home / "mlflow.db", isolation_level=None)) as connection:
            root = (home / "mlartifacts").as_uri()
            connection.execute("UPDATE experiments SET artifact_location = ? || '/0'", [root])
        return Tracker(home)

    return in_home


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The store of the session's artifacts."""
    return Store(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="session")
def seal_corpus(store: Store) -> SealCorpus:
    """`seal_corpus(kind, values, validation_fraction=…)` gives a sealed corpus of the given rows."""

    def seal(kind: RowKind, values: list[dict[str, Any]], *, validation_fraction: float = 0.1) -> Artifact:
        rows, _ = build(GIVEN_ROWS, GivenRows(rows=kind, values=values), {}, store=store)
        config = ShardConfig(rows=kind, validation_fraction=validation_fraction)
        return build(SHARD, config, {"rows": rows}, store=store)[0]

    return seal


@pytest.fixture(scope="session")
def corpus(seal_corpus: SealCorpus) -> Artifact:
    """A pretraining corpus of 300 bilingual documents."""
    return seal_corpus("pretrain", [{"text": text} for text in documents(300)])


@pytest.fixture(scope="session")
def tokenizer_artifact(corpus: Artifact, store: Store) -> Artifact:
    """A tokenizer of 600 pieces learnt from `corpus`."""
    return build(TOKENIZER, TokenizerConfig(vocab_size=600), {"corpus": corpus}, store=store)[0]


@pytest.fixture(scope="session")
def tokenizer(tokenizer_artifact: Artifact) -> Tokenizer:
    return Tokenizer.load(tokenizer_artifact.dir)


@pytest.fixture(scope="session")
def stock_tokenizer(tokenizer_artifact: Artifact) -> Any:
    """The exported tokenizer as transformers loads it, an oracle. Its import takes seconds, so once a session."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(tokenizer_artifact.dir))


@pytest.fixture(scope="session")
def token_artifacts(
    corpus: Artifact, tokenizer_artifact: Artifact, seal_corpus: SealCorpus, store: Store
) -> dict[RowKind, Artifact]:
    """Token sets of `corpus`, of 60 conversations and of 40 preference pairs, all with a validation split."""
    corpora: dict[RowKind, Artifact] = {
        "pretrain": corpus,
        "chat": seal_corpus("chat", conversations(60), validation_fraction=0.2),
        "preference": seal_corpus("preference", preferences(40), validation_fraction=0.2),
    }
    return {
        kind: build(TOKENS, TokensConfig(rows=kind), {"corpus": rows, "tokenizer": tokenizer_artifact}, store=store)[0]
        for kind, rows in corpora.items()
    }


@pytest.fixture(scope="session")
def base(
    token_artifacts: dict[RowKind, Artifact], tokenizer_artifact: Artifact, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A model directory for the later training stages to start from."""
    from resume_parts import COMMON, run_of  # torch takes a second to import, and few tests need it
    from training_parts import ONE_RANK, TINY

    from minimind.train.job import run_rank
    from minimind.train.stage_configs import PretrainConfig

    directory = tmp_path_factory.mktemp("base")
    config = PretrainConfig(model=TINY, **COMMON).replace(tokens=800)
    run_rank(run_of("pretrain", config, directory, token_artifacts, tokenizer_artifact, directory), ONE_RANK)
    return directory
