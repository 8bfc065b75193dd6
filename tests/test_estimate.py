"""What a training will cost: multiplied from a few steps of it, whatever is there of its inputs."""

import json
from pathlib import Path

import numpy as np
import pytest
from training_parts import TINY, VOCABULARY
from typer.testing import CliRunner

from minimind.artifact import Artifact, Store, Summary
from minimind.cli import app
from minimind.data.documents import RowKind
from minimind.data.spec import load_spec
from minimind.errors import ConfigError
from minimind.events import EVENTS_FILE, Event
from minimind.recipe import load_recipe
from minimind.stage import build
from minimind.tokens.token_set import TokenSet
from minimind.tokens.tokenizer import Tokenizer
from minimind.train import estimate as measuring
from minimind.train.config import TrainConfig
from minimind.train.estimate import Known, Size, estimate
from minimind.train.forecast import Forecast, compared, find, keep
from minimind.train.known_inputs import known_inputs, text_bytes
from minimind.train.stage_configs import DpoConfig, LoraConfig, PretrainConfig, SftConfig, TrainRun
from minimind.train.stages import PRETRAIN
from minimind.train.stand_ins import random_model, random_tokenizer, random_tokens, sample_tokens

Tokens = dict[RowKind, Artifact]
SHAPE = TINY.replace(vocab_size=VOCABULARY)
FORECAST = Forecast(
    stage="sft",
    steps=100,
    tokens=5000,
    tokens_per_second=50.0,
    mfu=0.5,
    start_seconds=10.0,
    step_seconds=1.0,
    validation_seconds=5.0,
    checkpoint_seconds=3.0,
    end_seconds=2.0,
    memory_mb=500.0,
    processes=2,
    model_mb=10.0,
    checkpoints_mb=60.0,
)


def test_time_disk_and_money_are_sums_of_what_was_measured() -> None:
    assert FORECAST.seconds == 10 + 100 * 1 + 5 + 3 + 2
    assert FORECAST.disk_mb == 70
    assert FORECAST.cost(30.0) == pytest.approx(1.0)


def test_an_estimate_is_found_by_the_very_same_training_only(tmp_path: Path) -> None:
    """Two processes are not as fast as one; other tokens are another training."""
    config, inputs = SftConfig(epochs=1), {"tokens": "a", "model": "b"}
    keep(tmp_path, FORECAST, config, inputs)
    assert find(tmp_path, "sft", config, inputs) == FORECAST
    assert find(tmp_path, "sft", config.replace(processes=2), inputs) is None
    assert find(tmp_path, "sft", config.replace(lr=1e-5), inputs) is None
    assert find(tmp_path, "sft", config, {**inputs, "tokens": "c"}) is None
    assert find(tmp_path, "lora", config, inputs) is None


def test_a_damaged_estimate_is_none(tmp_path: Path) -> None:
    """It is a convenience: a training must not end for it."""
    path = keep(tmp_path, FORECAST, SftConfig(epochs=1), {})
    path.write_text('{"stage": "sft"')
    assert find(tmp_path, "sft", SftConfig(epochs=1), {}) is None


def test_a_summary_says_what_was_estimated_and_what_came(tmp_path: Path) -> None:
    """The figures stand beside each other, where there was an estimate."""
    scratch = tmp_path / "artifacts" / "sft" / ".f00.scratch"
    run = TrainRun(stage="sft", config=SftConfig(epochs=1), inputs={}, fingerprints={"tokens": "a"}, out_dir=scratch)
    assert compared(Summary(figures={"steps": 100}), run, seconds=125.04).figures == {"steps": 100}
    keep(tmp_path, FORECAST, run.config, run.fingerprints)
    figures = compared(Summary(figures={"steps": 100}), run, seconds=125.04).figures
    assert figures == {"steps": 100, "estimated_seconds": 120.0, "actual_seconds": 125.0}


@pytest.mark.parametrize("kind", ["pretrain", "chat", "preference"])
def test_sampled_tokens_are_documents_of_the_real_set(kind: RowKind, token_artifacts: Tokens, tmp_path: Path) -> None:
    """Whole, with their masks, and pairs with both their sides: else a step would cost something else."""
    real_dir = token_artifacts[kind].dir
    sample_tokens(real_dir, tmp_path, tokens=600, val_tokens=100)
    for split in ("train", "val"):
        real, sample = TokenSet.open(real_dir / split), TokenSet.open(tmp_path / split)
        known = {real.document(number).tobytes() for number in range(real.num_documents)}
        drawn = [sample.document(number).tobytes() for number in range(sample.num_documents)]
        assert drawn and set(drawn) <= known
        assert sample.num_documents < real.num_documents or real.num_documents < 60
        if kind == "preference":
            chosen = range(0, real.num_documents, 2)
            pairs = {(real.document(n).tobytes(), real.document(n + 1).tobytes()) for n in chosen}
            assert {(drawn[n], drawn[n + 1]) for n in range(0, len(drawn), 2)} <= pairs
        if real.trained is not None and sample.trained is not None:
            assert 0 < int(sample.trained.sum()) <= int(real.trained.sum())


def test_stand_ins_can_be_opened_and_have_the_shape_that_is_asked_for(tmp_path: Path) -> None:
    tokenizer = random_tokenizer(tmp_path / "tokenizer", vocab_size=400)
    assert Tokenizer.load(tokenizer).vocab_size == 400
    tokens = random_tokens("chat", tmp_path / "tokens", vocab_size=400, longest=64, tokens=9000, val_tokens=500)
    train = TokenSet.open(tokens / "train")
    assert 9000 < train.num_tokens < 10_500
    assert train.longest_document <= 64
    assert int(np.max(train.tokens)) < 400
    random_model(tmp_path / "model", SHAPE.replace(vocab_size=400), tokenizer)
    assert {"model.safetensors", "config.json"} <= {path.name for path in (tmp_path / "model").iterdir()}


def test_the_rest_is_multiplied_from_four_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token_artifacts: Tokens
) -> None:
    """Lines of a made-up clock in, known figures out: 3 s to start, 2 s a step, 4 s a look, 0.5 s a checkpoint."""
    times = {1: 105.0, 2: 111.0, 3: 113.0, 4: 115.5}  # of the lines: the second comes after a look
    events = [
        Event(
            time=times[step],
            kind="step",
            step=step,
            total=4,
            metrics={"loss": 5.0, "tokens": 100.0 * step, "tokens_per_second": 50.0, "mfu": 0.5},
        )
        for step in times
    ]
    events.append(Event(time=125.5, kind="step", step=4, total=4, metrics={"validation_loss": 5.0}))
    (tmp_path / EVENTS_FILE).write_text("".join(event.model_dump_json() + "\n" for event in events))
    (tmp_path / "training.json").write_text(Summary(figures={"peak_memory_mb": 300.0}).model_dump_json())
    config = SftConfig(epochs=1, validate_every=100, checkpoint_seconds=60.0, length=512)
    inputs = {"tokens": token_artifacts["chat"].dir}
    run = TrainRun(stage="sft", config=config, inputs=inputs, fingerprints={}, out_dir=tmp_path)
    held_out = measuring.open_val_split("sft", config, inputs, ranks=1)
    assert held_out is not None
    took = measuring._Took.of(run, started=100.0, ended=126.0)
    forecast = took.forecast(run, config, Size(steps=1001, items=0, val_items=2 * held_out.num_items), ())
    assert (forecast.start_seconds, forecast.step_seconds) == (3.0, 2.0)
    assert forecast.validation_seconds == pytest.approx(10 * 4.0 + 2 * 10.0)
    assert forecast.checkpoint_seconds == pytest.approx(33 * 0.5)  # one a minute of 2,002 s
    assert forecast.end_seconds == 0.5
    assert (forecast.tokens, forecast.tokens_per_second, forecast.memory_mb) == (100_100, 50.0, 300.0)


def test_an_epoch_of_unknown_rows_has_no_length() -> None:
    """Better no figure than a wrong one; the remedy is in the message."""
    known = Known(inputs={}, exact=frozenset(), model=SHAPE)
    inputs = {"tokenizer": Path()}
    config = PretrainConfig(model=SHAPE, epochs=2)
    with pytest.raises(ConfigError, match=r"run the data stages first .* or give `pretrain.tokens`"):
        measuring._size("pretrain", config, known, inputs)
    by_tokens = measuring._size("pretrain", config.replace(epochs=None, tokens=163_840), known, inputs)
    assert by_tokens.steps == 10
    by_bytes = Known(inputs={}, exact=frozenset(), model=SHAPE, text_bytes={"pretrain": 3 * 163_840})
    assert measuring._size("pretrain", config, by_bytes, inputs).steps == 2 * 10


def test_the_text_of_a_spec_is_told_from_its_files(tmp_path: Path) -> None:
    """Local files by size and weight; a hub's data set would have to be fetched."""
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n' * 1000)
    source = '[[source]]\nname = "{0}"\nrows = "pretrain"\n{1}\n'
    spec = tmp_path / "spec.toml"
    spec.write_text(source.format("here", 'path = "rows.jsonl"\nweight = 2.0'))
    assert text_bytes(load_spec(spec), "pretrain") == 2 * 12_600
    assert text_bytes(load_spec(spec), "chat") == 0
    spec.write_text(source.format("there", 'kind = "hub"\ndataset = "a/b"'))
    assert text_bytes(load_spec(spec), "pretrain") is None


def test_inputs_are_the_very_ones_or_the_newest_like_them(store: Store, token_artifacts: Tokens) -> None:
    """A changed rule of cleaning gives another fingerprint and nearly the same rows: good enough to time a step."""
    spec, shape = load_spec("pydocs"), SHAPE
    real = {"tokens": token_artifacts["chat"].fingerprint, "model": "not there"}
    known = known_inputs("sft", SftConfig(epochs=1), real, store, shape=shape, spec=spec)
    assert known.inputs["tokens"] == token_artifacts["chat"].dir
    assert known.exact == {"tokens"}
    assert "model" not in known.inputs
    alike = known_inputs("sft", SftConfig(epochs=1), {}, store, shape=shape, spec=spec)
    assert TokenSet.open(alike.inputs["tokens"] / "train").kind == "chat"
    assert not alike.exact
    short = known_inputs("dpo", DpoConfig(tokens=1, length=8), {}, store, shape=shape, spec=spec)
    assert "tokens" not in short.inputs  # no pair of them fits
    assert short.text_bytes["preference"] > 1e6


def test_lora_is_timed_on_the_rows_it_will_learn(store: Store, token_artifacts: Tokens, tmp_path: Path) -> None:
    """Its own where the data spec has any, though there are tokens of chats already."""
    (tmp_path / "own.jsonl").write_text('{"conversations": []}\n' * 1000)
    (tmp_path / "spec.toml").write_text('[[source]]\nname = "own"\nrows = "lora"\npath = "own.jsonl"\n')
    config, spec = LoraConfig(epochs=1), load_spec(tmp_path / "spec.toml")
    chats = known_inputs("lora", config, {}, store, shape=SHAPE, spec=load_spec("pydocs"))
    assert TokenSet.open(chats.inputs["tokens"] / "train").kind == "chat"
    empty = Store(tmp_path)
    known = known_inputs("lora", config, {}, empty, shape=SHAPE, spec=spec)
    assert known.text_bytes == {"lora": int(0.9 * 22 * 1000)}
    assert measuring._size("lora", config, known, {"tokenizer": Path()}).items == int(19_800 / 2.2 / config.length)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sftt"], "did you mean `sft`"),
        (["minimind4"], "did you mean `minimind3`"),
        (["distill"], "has no section [distill]; it trains pretrain, sft, dpo, lora"),
        (["sft", "-o", "sft.lrr=1"], "did you mean `lr`"),
    ],
)
def test_a_mistake_is_said_before_anything_runs(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINIMIND_HOME", str(tmp_path))
    done = CliRunner().invoke(app, ["estimate", *arguments])
    assert isinstance(done.exception, ConfigError)
    assert message in str(done.exception)
    assert not any(tmp_path.iterdir())


def test_an_estimate_of_several_nodes_is_refused(tmp_path: Path) -> None:
    config = SftConfig(epochs=1, nodes=2, rendezvous="a:1")
    with pytest.raises(ConfigError, match=r"`sft.nodes` is 2; an estimate runs on this machine"):
        estimate("sft", config, Known(inputs={}, exact=frozenset(), model=SHAPE), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["pretrain", "sft", "dpo", "lora", "distill"])
def test_every_stage_can_be_estimated_from_nothing(stage: str, tmp_path: Path) -> None:
    """With random rows, tokenizer and models: before anything was downloaded or cleaned."""
    config: TrainConfig = getattr(load_recipe("quickstart"), "sft" if stage == "distill" else stage)
    small = {"epochs": None, "tokens": 40 * 1024, "batch_tokens": 1024, "micro_tokens": 1024, "length": 128}
    if stage == "pretrain":
        config = PretrainConfig(model=SHAPE, **{**dict(config), **small})
    else:
        from minimind.train.stage_configs import CONFIGS

        fields = {k: v for k, v in dict(config).items() if k in CONFIGS[stage].model_fields}
        config = CONFIGS[stage].model_validate({**fields, **small})
    forecast = estimate(stage, config, Known(inputs={}, exact=frozenset(), model=SHAPE), tmp_path)  # type: ignore[arg-type]
    assert forecast.steps == 40
    assert min(forecast.step_seconds, forecast.start_seconds, forecast.tokens_per_second) > 0
    assert forecast.model_mb > 0.05
    assert forecast.checkpoints_mb > 0.01
    assert forecast.stand_ins


@pytest.mark.slow
def test_a_training_says_how_long_it_was_estimated_to_take(
    token_artifacts: Tokens, tokenizer_artifact: Artifact, tmp_path: Path
) -> None:
    """Estimate, run, compare: through the store, with the real processes. How near it comes is in docs/log.md."""
    config = PretrainConfig(
        model=SHAPE, tokens=30 * 1024, batch_tokens=1024, length=128, threads=1, warmup_steps=2, validate_every=10
    )
    inputs = {"tokens": token_artifacts["pretrain"], "tokenizer": tokenizer_artifact}
    fingerprints = {name: artifact.fingerprint for name, artifact in inputs.items()}
    known = Known({name: artifact.dir for name, artifact in inputs.items()}, frozenset(inputs), SHAPE)
    (tmp_path / "work").mkdir()
    forecast = estimate("pretrain", config, known, tmp_path / "work")
    keep(tmp_path, forecast, config, fingerprints)
    artifact, _ = build(PRETRAIN, config, inputs, store=Store(tmp_path))
    figures = artifact.summary().figures
    assert figures["steps"] == forecast.steps == 30
    assert figures["estimated_seconds"] == round(forecast.seconds, 1)
    assert isinstance(figures["actual_seconds"], float) and figures["actual_seconds"] > 0
    size = sum(path.stat().st_size for path in artifact.dir.glob("*") if path.suffix in (".safetensors", ".model"))
    assert forecast.model_mb == pytest.approx(size / 1e6, rel=0.5)


@pytest.mark.slow
def test_the_command_prints_and_registers_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a user calls it on a fresh machine, with money."""
    monkeypatch.setenv("MINIMIND_HOME", str(tmp_path))
    small = ["-o", "pretrain.tokens=40960", "-o", "pretrain.batch_tokens=1024", "--price", "3.6", "--json"]
    done = CliRunner().invoke(app, ["estimate", "pretrain", *small], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert [stage["stage"] for stage in told["stages"]] == ["pretrain"]
    assert told["total"]["cost"] == pytest.approx(told["total"]["seconds"] / 1000, rel=0.01)
    assert not list((tmp_path / "artifacts").glob("*/*[!k]"))  # a lock, no artifact
