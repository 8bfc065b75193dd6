"""A store of toy artifacts with the shape of the real path: sources, tokenizer, token sets, two models."""

from pathlib import Path

from minimind.artifact import Artifact, Inputs, Store, Summary
from minimind.config import Config
from minimind.stage import Stage, build


class Toy(Config):
    """What a toy stage is told."""

    rows: str | None = None
    lr: float = 1e-3


def make(config: Toy, inputs: Inputs, out_dir: Path) -> Summary:
    (out_dir / "payload").write_text(str(config))
    return Summary(figures={"loss": config.lr * 1000, "digits": 3})


class Chain:
    """ingest → clean → tokens (twice), tokenizer, pretrain, sft, as fingerprint chains."""

    def __init__(self, home: Path) -> None:
        self.store = Store(home)

    def stage(self, name: str, config: Toy, *, source: str = "", **inputs: Artifact) -> Artifact:
        sources = (lambda _: {"file <a>.jsonl": source}) if source else (lambda _: {})
        stage = Stage(name, make, inputs=tuple(inputs), sources=sources)
        return build(stage, config, inputs, store=self.store)[0]

    def model(self, *, chat_bytes: str = "c0", lr: float = 1e-3) -> Artifact:
        """A chat model; its conversations have those bytes."""
        corpora = {
            rows: self.stage("shard", Toy(rows=rows), rows=self.stage("ingest", Toy(rows=rows), source=digest))
            for rows, digest in {"pretrain": "a1", "chat": chat_bytes}.items()
        }
        tokenizer = self.stage("tokenizer", Toy(), corpus=corpora["pretrain"])
        tokens = {
            rows: self.stage("tokens", Toy(rows=rows), corpus=corpus, tokenizer=tokenizer)
            for rows, corpus in corpora.items()
        }
        base = self.stage("pretrain", Toy(), tokens=tokens["pretrain"], tokenizer=tokenizer)
        return self.stage("sft", Toy(lr=lr), tokens=tokens["chat"], model=base)
