"""Every training can be one of adapters: it leaves the adapter, the merged model, and other weights as they were."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SealCorpus, conversations
from training_parts import ONE_RANK, TINY

from minimind.artifact import Artifact, Store
from minimind.data.documents import RowKind
from minimind.errors import ConfigError
from minimind.model.lora import load_adapter, merge_lora
from minimind.model.transformer import Transformer
from minimind.model.weights import load_model, save_model
from minimind.stage import build
from minimind.tokens.tokenizer import Tokenizer
from minimind.tokens.tokenizing import TOKENS, TokensConfig
from minimind.train import job
from minimind.train.results import ADAPTER_DIR
from minimind.train.splits import open_train_split
from minimind.train.stage_configs import CONFIGS, LoraConfig, TrainRun

COMMON: dict[str, Any] = {
    "tokens": 3 * 800,
    "length": 400,
    "batch_tokens": 800,
    "warmup_steps": 0,
    "lr": 1e-2,
    "precision": "fp32",
    "device": "cpu",
}
TEACHER = TINY.replace(num_experts=4, experts_per_token=2)
STAGES: dict[str, tuple[RowKind, dict[str, Any]]] = {
    "pretrain": ("pretrain", {"model": TINY}),
    "sft": ("chat", {}),
    "dpo": ("preference", {}),
    "lora": ("chat", {}),
    "distill": ("chat", {}),
}


@pytest.fixture(scope="module")
def models(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A dense student and a teacher with experts."""
    directory = tmp_path_factory.mktemp("models")
    for name, shape in (("model", TINY), ("teacher", TEACHER)):
        (directory / name).mkdir()
        save_model(directory / name, Transformer(shape, seed=3))
        tokenizer.copy_to(directory / name)
    return {name: directory / name for name in ("model", "teacher")}


def run_of(stage: str, tokens: Path, tokenizer: Path, models: dict[str, Path], out_dir: Path, **more: Any) -> TrainRun:
    inputs = {"tokens": tokens, "tokenizer": tokenizer, **models}
    config = CONFIGS[stage](**{**COMMON, **STAGES[stage][1], **more})
    return TrainRun(stage=stage, config=config, inputs=inputs, fingerprints={n: n for n in inputs}, out_dir=out_dir)


@pytest.mark.parametrize("stage", STAGES)
def test_any_training_may_be_one_of_adapters(
    stage: str,
    token_artifacts: dict[RowKind, Artifact],
    tokenizer_artifact: Artifact,
    models: dict[str, Path],
    tmp_path: Path,
) -> None:
    """The merged model is the input with the saved adapter on it, and all other weights are the input's to the bit."""
    torch.set_num_threads(1)
    lora = {"rank": 2, "alpha": 3.0, "targets": ("q_proj", "down_proj")}
    settings = lora if stage == "lora" else {"lora": lora}
    tokens = token_artifacts[STAGES[stage][0]].dir
    run = run_of(stage, tokens, tokenizer_artifact.dir, models, tmp_path, **settings)
    job.run_rank(run, ONE_RANK)
    base = Transformer(TINY, seed=0) if stage == "pretrain" else load_model(models["model"])
    before = {name: weight.clone() for name, weight in base.state_dict().items()}
    after = load_model(tmp_path).state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.endswith(("q_proj.weight", "down_proj.weight"))}
    load_adapter(tmp_path / ADAPTER_DIR, base)
    merge_lora(base)
    assert all(torch.equal(weight, after[name]) for name, weight in base.state_dict().items())


def test_rows_for_lora_teach_lora_what_chats_would_and_nobody_else(
    seal_corpus: SealCorpus,
    token_artifacts: dict[RowKind, Artifact],
    tokenizer_artifact: Artifact,
    models: dict[str, Path],
    tmp_path: Path,
) -> None:
    """Equal conversations give equal weights; SFT that is given the wrong set must not learn from it."""
    torch.set_num_threads(1)
    corpus = seal_corpus("lora", conversations(60), validation_fraction=0.2)
    own, _ = build(
        TOKENS, TokensConfig(rows="lora"), {"corpus": corpus, "tokenizer": tokenizer_artifact}, store=Store(tmp_path)
    )
    for name, tokens in (("own", own), ("chats", token_artifacts["chat"])):
        (tmp_path / name).mkdir()
        job.run_rank(run_of("lora", tokens.dir, tokenizer_artifact.dir, models, tmp_path / name), ONE_RANK)
    first, second = (load_model(tmp_path / name).state_dict() for name in ("own", "chats"))
    assert all(torch.equal(weight, second[name]) for name, weight in first.items())
    with pytest.raises(ConfigError, match="sft trains on chat or pretrain rows; its token set has lora rows"):
        open_train_split("sft", CONFIGS["sft"](**COMMON), {"tokens": own.dir}, tokenizer_artifact.dir)


def test_lora_has_its_own_keys_and_no_second_set() -> None:
    """`[lora]` says rank, alpha and targets itself; a table in it would be ignored."""
    with pytest.raises(ConfigError, match="`lora` is for other trainings"):
        LoraConfig.parse({"tokens": 800, "lora": {"rank": 2}}, origin="[lora]")
    with pytest.raises(ConfigError, match="did you mean `rank`"):
        CONFIGS["dpo"].parse({"tokens": 800, "lora": {"rnak": 2}}, origin="[dpo]")
    assert CONFIGS["sft"](tokens=800).adapters is None
    assert LoraConfig(tokens=800, rank=3).adapters == CONFIGS["sft"](tokens=800, lora={"rank": 3}).adapters


@pytest.mark.parametrize(
    ("teacher", "length", "message"),
    [
        (TINY.replace(vocab_size=700), 400, "`distill.teacher` is 700, the student's 600"),
        (TINY.replace(max_positions=64), 400, "`distill.teacher` has 64 positions"),
    ],
)
def test_a_teacher_that_cannot_read_the_rows_is_refused(
    teacher: Any,
    length: int,
    message: str,
    token_artifacts: dict[RowKind, Artifact],
    tokenizer_artifact: Artifact,
    models: dict[str, Path],
    tmp_path: Path,
) -> None:
    """Equal ids must mean equal tokens; a crash in the middle of a batch would say nothing of it."""
    save_model(tmp_path, Transformer(teacher))
    inputs = {**models, "teacher": tmp_path}
    run = run_of(
        "distill", token_artifacts["chat"].dir, tokenizer_artifact.dir, inputs, tmp_path / "out", length=length
    )
    run.out_dir.mkdir()
    with pytest.raises(ConfigError, match=message):
        job.run_rank(run, ONE_RANK)
