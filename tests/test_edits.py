"""The edit matrix: whatever is changed by one byte, key, line or place, exactly the stages that it decides run again.

A micro pipeline is run once, by a copy of the checkout that can be edited. Every case changes one thing, asks
`minimind plan` in a process of its own, and changes it back.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from test_pipeline import STAGES, write_project

pytestmark = pytest.mark.slow

CHECKOUT = Path(__file__).resolve().parents[1]
KINDS = ("pretrain", "chat", "preference")
TOKENS = {f"tokens-{kind}" for kind in KINDS}
FINISHING = {"evaluate", "publish"}
AFTER_SFT = {"sft", "dpo", "lora", *FINISHING}
TRAINING = {"pretrain", *AFTER_SFT}
AFTER_TEXT = {"tokenizer", *TOKENS, *TRAINING}


def of(stage: str) -> set[str]:
    return {f"{stage}-{kind}" for kind in KINDS}


@dataclass(frozen=True)
class Project:
    """What may be edited."""

    root: Path
    """With `code/`, a copy of the checkout, `data/`, the rows and their spec, `home/`, the store."""

    @property
    def code(self) -> Path:
        return self.root / "code"

    def command(self, *words: str, data: Path | None = None) -> list[str]:
        data = data or self.root / "data"
        files = ("-r", str(data / "micro.toml"), "-d", str(data / "spec.toml"))
        return [sys.executable, "-m", "minimind.cli", *words, *files]

    def run(self, *words: str, **environment: str) -> str:
        """What a command printed."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
        clean |= {"MINIMIND_HOME": str(self.root / "home"), "PYTHONPATH": str(self.code), "PYTHONDONTWRITEBYTECODE": ""}
        done = subprocess.run(
            list(words), cwd=self.root, env=clean | environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def would_run(self, *options: str, data: Path | None = None, **environment: str) -> set[str]:
        steps = json.loads(self.run(*self.command("plan", "--json", data=data), *options, **environment))
        assert {step["stage"] for step in steps} == set(STAGES)
        assert all(step["reasons"] for step in steps if not step["reuse"])
        return {step["stage"] for step in steps if not step["reuse"]}

    @contextmanager
    def edited(self, path: str, change: Callable[[str], str]) -> Iterator[None]:
        """Inside, a file reads otherwise."""
        file = self.root / path
        before = file.read_text()
        after = change(before)
        assert after != before, "the case edits nothing"
        file.write_text(after)
        try:
            yield
        finally:
            file.write_text(before)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A pipeline that has run to its end."""
    made = Project(tmp_path_factory.mktemp("edits"))
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("minimind", "flows", "tasks", "data_specs"):
        shutil.copytree(CHECKOUT / name, made.code / name, ignore=ignore)
    shutil.copy(CHECKOUT / "pyproject.toml", made.code)
    (made.root / "data").mkdir()
    write_project(made.root / "data")
    made.run(*made.command("run"))
    assert made.would_run() == set()
    return made


def line(text: str) -> Callable[[str], str]:
    """One more line at the end."""
    return lambda source: f"{source}{text}\n"


def docstring(source: str) -> str:
    return source.replace('"""', '"""Said otherwise. ', 1)


def swapped(old: str, new: str) -> Callable[[str], str]:
    return lambda text: text.replace(old, new, 1)


CODE = line("_EDITED = 1")
COMMENT = line("# edited")
EVERYTHING = set(STAGES)
TEXT_CHAIN = {"ingest-pretrain", "clean-pretrain", "shard-pretrain"} | AFTER_TEXT
CHAT_CHAIN = {"ingest-chat", "clean-chat", "shard-chat", "tokens-chat"} | AFTER_SFT
PAIR_CHAIN = {f"{stage}-preference" for stage in ("ingest", "clean", "shard", "tokens")} | {"dpo", *FINISHING}
FILES = {
    "a word of a text": ("data/text.jsonl", swapped("cat", "cow"), TEXT_CHAIN),
    "a byte of a text": ("data/text.jsonl", swapped("Document 7.", "Document 7!"), TEXT_CHAIN),
    "a word of a chat": ("data/chat.jsonl", swapped("cat", "cow"), CHAT_CHAIN),
    "a word of a pair": ("data/pairs.jsonl", swapped("cat", "cow"), PAIR_CHAIN),
    "a key of the split": ("data/spec.toml", swapped("0.1", "0.2"), of("shard") | AFTER_TEXT),
    "a comment in the spec": ("data/spec.toml", line("# edited"), set()),
    "a comment in the recipe": ("data/micro.toml", line("# edited"), set()),
    "the recipe's description": ("data/micro.toml", lambda text: f'description = "other words"\n{text}', set()),
    "code of the reader": ("code/minimind/data/reading/ingest.py", CODE, EVERYTHING),
    "code of a rule": ("code/minimind/data/rules/personal.py", CODE, of("clean") | of("shard") | AFTER_TEXT),
    "code of the tokenizer's training": ("code/minimind/tokens/tokenizer_training.py", CODE, AFTER_TEXT),
    "code of the loop": ("code/minimind/train/loop.py", CODE, TRAINING),
    "code of the launcher": ("code/minimind/train/launch.py", CODE, TRAINING),
    "code of the baseline": ("code/minimind/evaluate/baseline.py", CODE, FINISHING),
    "code of the report's pictures": ("code/minimind/evaluate/card/charts.py", CODE, {"publish"}),
    "the report's template": ("code/minimind/evaluate/card/templates/report.md.j2", line("The end."), {"publish"}),
    "a comment in the loop": ("code/minimind/train/loop.py", COMMENT, set()),
    "a docstring of the loop": ("code/minimind/train/loop.py", docstring, set()),
    "a docstring of the reader": ("code/minimind/data/reading/ingest.py", docstring, set()),
    "code of the command line": ("code/minimind/cli/app.py", CODE, set()),
    "code of a task": ("code/tasks/display.py", CODE, set()),
    "code of the slots": ("code/minimind/train/slots.py", CODE, set()),
    "code of the lineage": ("code/minimind/housekeeping/removal.py", CODE, set()),
}
OPTIONS = {
    "dpo.beta=0.3": {"dpo", *FINISHING},
    "lora.rank=4": {"lora", *FINISHING},
    "sft.lr=1e-4": AFTER_SFT,
    "pretrain.seed=1": TRAINING,
    "model.num_layers=3": TRAINING,
    "tokenizer.vocab_size=420": AFTER_TEXT,
    "tokens.chat_too_long=split": {"tokens-chat", *AFTER_SFT},
    "evaluate.max_pairs=9": FINISHING,
    "publish.model=sft": {"publish"},
    "sft.processes=2": set(),
    "pretrain.device=cpu": set(),
    "pretrain.threads=1": set(),
    "pretrain.log_every=7": set(),
    "pretrain.checkpoint_seconds=5": set(),
    "pretrain.stall_seconds=50": set(),
    "pretrain.micro_tokens=1024": set(),
}
ENVIRONMENT = {
    "more threads": {"OMP_NUM_THREADS": "3"},
    "no GPU": {"CUDA_VISIBLE_DEVICES": ""},
    "another language": {"LANG": "zh_CN.UTF-8", "TZ": "Asia/Shanghai"},
    "another order of hashes": {"PYTHONHASHSEED": "7"},
}


@pytest.mark.parametrize("case", FILES)
def test_an_edited_file_reruns_what_it_decides(project: Project, case: str) -> None:
    path, change, expected = FILES[case]
    with project.edited(path, change):
        assert project.would_run() == expected
    assert project.would_run() == set()


@pytest.mark.parametrize("override", OPTIONS)
def test_an_override_reruns_what_it_decides(project: Project, override: str) -> None:
    assert project.would_run("-o", override) == OPTIONS[override]


@pytest.mark.parametrize("case", ENVIRONMENT)
def test_where_it_runs_reruns_nothing(project: Project, case: str) -> None:
    assert project.would_run(**ENVIRONMENT[case]) == set()


def test_other_versions_of_libraries_rerun_nothing_and_are_seen(project: Project, tmp_path: Path) -> None:
    """They are recorded with an artifact, and `diff` shows them; a release of NumPy is no reason to train for days."""
    (tmp_path / "numpy-99.0.dist-info").mkdir()
    (tmp_path / "numpy-99.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 99.0\n")
    path = os.pathsep.join([str(tmp_path), str(project.code)])
    seen = "from minimind.runtime import libraries; print(libraries()['numpy'])"
    assert project.run(sys.executable, "-c", seen, PYTHONPATH=path) == "99.0\n"
    assert project.would_run(PYTHONPATH=path) == set()


def test_other_places_rerun_nothing(project: Project, tmp_path: Path) -> None:
    """Data, recipe, spec and store moved, all files written anew."""
    shutil.copytree(project.root / "data", tmp_path / "data")
    assert project.would_run(data=tmp_path / "data") == set()
    shutil.copytree(project.root / "home" / "artifacts", tmp_path / "home" / "artifacts")
    assert project.would_run(MINIMIND_HOME=str(tmp_path / "home")) == set()


@pytest.mark.parametrize("stage", ["clean", "tokens", "pretrain", "publish"])
def test_a_removed_artifact_alone_is_made_again(project: Project, tmp_path: Path, stage: str) -> None:
    """What was made of it is still what it would make."""
    artifact = min((project.root / "home" / "artifacts" / stage).glob("[!.]*"))
    label = json.loads((artifact / "manifest.json").read_text())["parts"]
    rows = label["config"].get("rows")
    artifact.rename(tmp_path / "aside")
    try:
        assert project.would_run() == {f"{stage}-{rows}" if rows else stage}
    finally:
        (tmp_path / "aside").rename(artifact)


@pytest.mark.parametrize(("stage", "file"), [("sft", "model.safetensors"), ("tokenizer", "manifest.json")])
def test_a_damaged_artifact_is_noticed(project: Project, stage: str, file: str) -> None:
    """One flipped bit on a disk; its size and times are what they were."""
    (path,) = (project.root / "home" / "artifacts" / stage).glob(f"[!.]*/{file}")
    before, times = path.read_bytes(), path.stat()
    middle = len(before) // 2
    path.write_bytes(before[:middle] + bytes([before[middle] ^ 1]) + before[middle + 1 :])
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    try:
        assert project.would_run() == {stage}
    finally:
        path.write_bytes(before)
