"""A training in miniature, of made-up words, for proofs on the user's own machine: `minimind verify`.

The real stages make the token set, the real agent starts the ranks, and what ends them is a real signal; only the size
is small. Text, model and order of rows follow from fixed seeds. Not here: what is proven (`verify.py`).
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from minimind.artifact import Artifact, Inputs, Store, Summary
from minimind.config import Config
from minimind.data.documents import check_row
from minimind.data.dropped import DROPPED_FILE
from minimind.data.kinds import CONVERSATIONS, RowKind
from minimind.data.sharding import SHARD, ShardConfig
from minimind.data.shards import ROWS_DIR, write_rows
from minimind.errors import StageError
from minimind.events import EVENTS_FILE, read_events
from minimind.model.config import ModelConfig
from minimind.stage import Stage, build
from minimind.tokens.tokenizer import Tokenizer
from minimind.tokens.tokenizer_training import TOKENIZER, TokenizerConfig
from minimind.tokens.tokenizing import TOKENS, TokensConfig
from minimind.train.config import StageName
from minimind.train.launch import LOG_FILE, RUN_FILE, start_agent
from minimind.train.stage_configs import CONFIGS, TrainRun

SHAPE = {"hidden_size": 64, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "head_size": 16, "ffn_size": 128}
LENGTH = 160
"""Positions of a row; no made-up conversation is longer."""
VOCABULARY = 384
WORDS = 400
ROWS: dict[RowKind, int] = {"pretrain": 240, "chat": 160, "preference": 120, "lora": 160}


class MadeRows(Config):
    """Rows out of made-up words."""

    rows: RowKind
    count: int
    seed: int = 0


def make_rows(config: MadeRows, _: Inputs, out_dir: Path) -> Summary:
    """What a clean stage would leave."""
    rng = random.Random(config.seed)
    words = ["".join(rng.choices("abcdefghijklmnoprstuvw", k=rng.randint(2, 7))) for _ in range(WORDS)]

    def text(longest: int) -> str:
        return " ".join(rng.choices(words, k=rng.randint(3, longest))) + "."

    def turns() -> list[dict[str, str]]:
        return [{"role": "user", "content": text(6)}, {"role": "assistant", "content": text(9)}]

    def value() -> dict[str, Any]:
        if config.rows == "pretrain":
            return {"text": text(80)}
        if config.rows in CONVERSATIONS:
            return {"conversations": turns()}
        prompt, chosen = turns()
        return {"chosen": [prompt, chosen], "rejected": [prompt, turns()[1]]}

    made = (check_row(config.rows, value()) for _ in range(config.count))
    rows = [{**row, "source": "made", "line": line, "group": row["id"]} for line, row in enumerate(made, 1)]
    write_rows(out_dir / ROWS_DIR, config.rows, rows)
    (out_dir / DROPPED_FILE).touch()
    return Summary(figures={"rows": len(rows)})


MADE_ROWS = Stage("clean", make_rows)


@dataclass
class Trial:
    """A store with what a stage reads. Runs are directories beside it."""

    root: Path
    stage: StageName
    shape: ModelConfig | None = None
    """Of the model; a small one by default. Its vocabulary is that of the trial's tokenizer."""
    _inputs: dict[str, Path] = field(default_factory=dict)

    def run(self, name: str, settings: dict[str, Any]) -> TrainRun:
        """A training called `name` with these settings."""
        if not self._inputs:
            self._inputs = self._make_inputs()
        out_dir = self.root / name
        out_dir.mkdir()
        model = {"model": self.model} if self.stage == "pretrain" else {}
        config = CONFIGS[self.stage].model_validate({**settings, **model})
        names = {"pretrain": ["tokens", "tokenizer"], "distill": ["tokens", "model", "teacher"]}
        inputs = {name: self._inputs[name] for name in names.get(self.stage, ["tokens", "model"])}
        return TrainRun(
            stage=self.stage, config=config, inputs=inputs, fingerprints={n: n for n in inputs}, out_dir=out_dir
        )

    @property
    def model(self) -> ModelConfig:
        """The shape of the model that is trained."""
        vocabulary = Tokenizer.load(self._inputs["tokenizer"]).vocab_size
        if self.shape:
            return self.shape.replace(vocab_size=vocabulary)
        return ModelConfig(vocab_size=vocabulary, max_positions=2 * LENGTH, **SHAPE)

    def _make_inputs(self) -> dict[str, Path]:
        from minimind.model.transformer import Transformer  # seconds to import
        from minimind.model.weights import save_model

        store = Store(self.root)
        kind = CONFIGS[self.stage].own_rows[0]
        corpora = {name: self._corpus(store, name) for name in {"pretrain", kind}}
        tokenizer, _ = build(
            TOKENIZER, TokenizerConfig(vocab_size=VOCABULARY), {"corpus": corpora["pretrain"]}, store=store
        )
        inputs = {"corpus": corpora[kind], "tokenizer": tokenizer}
        tokens, _ = build(TOKENS, TokensConfig(rows=kind), inputs, store=store)
        self._inputs = {"tokens": tokens.dir, "tokenizer": tokenizer.dir}
        for number, name in enumerate(("model", "teacher")):
            directory = self.root / name
            directory.mkdir()
            save_model(directory, Transformer(self.model, seed=number))
            Tokenizer.load(tokenizer.dir).copy_to(directory)
            self._inputs[name] = directory
        return self._inputs

    @staticmethod
    def _corpus(store: Store, kind: RowKind) -> Artifact:
        rows, _ = build(MADE_ROWS, MadeRows(rows=kind, count=ROWS[kind]), {}, store=store)
        return build(SHARD, ShardConfig(rows=kind, validation_fraction=0.1), {"rows": rows}, store=store)[0]


def train_in_processes(run: TrainRun, *, kill_when: Callable[[], bool] = lambda: False) -> bool:
    """Run the agent and its ranks to their end, or SIGKILL all of them at once as soon as `kill_when()`.

    True where they came to their end. Raises StageError where they failed by themselves.
    """
    run_path = run.out_dir / RUN_FILE
    run.write(run_path)
    with (run.out_dir / LOG_FILE).open("wb") as log:
        agent = start_agent(run, run_path, node_rank=0, output=log)
        try:
            while agent.poll() is None:
                if kill_when():
                    _kill(agent.pid)
                    agent.wait()
                    return False
                time.sleep(0.002)
        finally:
            if agent.poll() is None:
                _kill(agent.pid)
                agent.wait()
    if agent.returncode:
        lines = (run.out_dir / LOG_FILE).read_text(encoding="utf-8", errors="replace").splitlines()[-20:]
        raise StageError("\n".join([f"{run.stage}: a training of the proof failed; its last lines:", *lines]))
    return True


def last_step(run: TrainRun) -> int:
    """The newest step in the log of a run; 0 before the first."""
    events = read_events(run.out_dir / EVENTS_FILE)
    return max((event.step for event in events if event.kind == "step"), default=0)


def _kill(pid: int) -> None:
    """SIGKILL to a process and all below it; returns when they are gone."""
    try:
        agent = psutil.Process(pid)
        tree = [agent, *agent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for process in tree:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(tree[1:], timeout=30)
