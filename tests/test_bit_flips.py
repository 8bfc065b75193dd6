"""A bit that flips in any file we write is noticed when the file is next used: an error, or a warning and a remake.

Every kind of file has its reader here, the one through which the product reads it. What is read after a flip is never
what the flip made of it. The random flips are seeded; `make slow` makes 200 for every kind.
"""

import logging
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from toy_store import Chain, Toy

from flows.fsck import examined
from minimind import fingerprint, runtime
from minimind.artifact import Artifact, Manifest, Store, open_artifact, prove_model
from minimind.config import Config
from minimind.data.documents import RowKind
from minimind.data.pieces import Advance, build_pieces
from minimind.errors import MiniMindError
from minimind.evaluate import hub_suites
from minimind.evaluate.config import GateConfig
from minimind.evaluate.gate import Ruling, Verdict
from minimind.events import EventWriter
from minimind.housekeeping.pins import pin, pins
from minimind.infer import batch
from minimind.lineage import find_artifact
from minimind.proven import DAMAGED, Proven
from minimind.serve.webui.chats import ChatStore, Message, Settings, new_chat
from minimind.sweep import page
from minimind.sweep.comparison import Comparison, Result, read_comparison
from minimind.sweep.metric import Metric
from minimind.train import forecast, reference
from minimind.train.checkpoint import Header, find_checkpoint
from minimind.train.forecast import Forecast
from minimind.train.launch import RUN_FILE, TRAINING_FILE, Failure, Trained
from minimind.train.stage_configs import SftConfig, TrainRun
from tasks import gate, running
from tasks.copies import Copies
from tasks.display import Display
from tasks.recording import RunNote
from tasks.registry import Registration, note_path, noted
from tasks.stage import Pipeline

FEW, MANY = 5, 200
FINGERPRINT = "0123456789abcdef"
SETTINGS = SftConfig(tokens=1, length=24, batch_tokens=24)


@dataclass(frozen=True)
class Kind:
    """A kind of file: how one comes to be, and what is read of it when it is next used."""

    write: Callable[[Path], list[Path]]
    """Into an empty directory; gives the files in which bits flip."""
    use: Callable[[Path], object]
    """Raises, or gives what is read."""
    remade: bool = False
    """What is read after a flip is what was there before, made again: a cache."""
    told: Callable[[Path], bool] = field(default=lambda home: False)
    """Whether the flip was said, where that is no line of the log."""


def toy(home: Path) -> Artifact:
    return Chain(home).stage("sft", Toy(lr=1.25e-5))


def of_the_toy(*names: str) -> Callable[[Path], list[Path]]:
    return lambda home: [toy(home).dir / name for name in names]


def the_toy(home: Path) -> Path:
    return next(path for path in (home / "artifacts" / "sft").iterdir() if not path.name.startswith("."))


def write_note(name: str, note: Proven) -> Callable[[Path], list[Path]]:
    def write(home: Path) -> list[Path]:
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        note.write(home / name)
        return [home / name]

    return write


def read_note(name: str, kind: type[Proven]) -> Callable[[Path], object]:
    return lambda home: kind.read_json(home / name, remedy="make it again")


def write_registration(home: Path) -> list[Path]:
    artifact = toy(home)
    path = note_path(home, artifact)
    Registration(tracking_uri="http://127.0.0.1:9", run_id="r" * 32, name="minimind-sft", version=3).write(path)
    return [path]


def write_verdict(home: Path) -> list[Path]:
    artifact = toy(home)
    verdict = Verdict(
        model="sft",
        label="sft",
        fingerprint=artifact.fingerprint,
        champion=None,
        gate=GateConfig(),
        rulings=[Ruling(rule="max_repetition", passed=False, detail="0.4 > 0.3")],
        judged_at=runtime.now(),
    )
    gate.keep(home, artifact, verdict)
    return list((home / "gate").iterdir())


def write_run(home: Path) -> list[Path]:
    note = running.note_run(home, tracking_uri="sqlite:///x", mlflow_run="r" * 32)
    running.note_end(home, note.replace(mlflow_run=None), "FINISHED", {"sft": "models:/minimind-sft/3"}, None)
    return list((home / "running").iterdir())


def write_estimate(home: Path) -> list[Path]:
    numbers = {name: 1.5 for name, one in Forecast.model_fields.items() if one.annotation is float or name == "mfu"}
    counts = {"steps": 10, "tokens": 1000, "processes": 2}
    return [forecast.keep(home, Forecast(stage="sft", **counts, **numbers), SETTINGS, {"tokens": FINGERPRINT})]


def write_sweep(home: Path) -> list[Path]:
    comparison = Comparison(
        id="one",
        stage="sft",
        compared="sft",
        recipe="tiny",
        metric=Metric(stage="sft", figure="validation_loss", goal="min"),
        names={"sft.lr": "lr"},
        results=[Result(number=1, name="lr=1e-4", settings={"sft.lr": 1e-4}, texts={"sft.lr": "1e-4"})],
        created_at=runtime.now(),
    )
    page.write(comparison, home / "sweeps" / "one")
    return [home / "sweeps" / "one" / "sweep.json"]


def write_chat(home: Path) -> list[Path]:
    chat = new_chat(Settings(temperature=0.5)).with_message(Message(parent=None, role="user", content="Are you there?"))
    ChatStore(home / "chats").save(chat)
    return list((home / "chats").glob("*.json"))


def use_chat(home: Path) -> object:
    (path,) = (home / "chats").glob("*.json")
    return ChatStore(home / "chats").load(path.stem)


def write_checkpoint(home: Path) -> list[Path]:
    """As the loop writes it; what is in its files does not matter to who proves them."""
    step = home / "checkpoints" / "step-00000003"
    step.mkdir(parents=True)
    names = ("model.safetensors", "optimizer.safetensors", "rng.safetensors")
    for number, name in enumerate(names):
        save_file({"weight": torch.full((4, 4), float(number))}, step / name)
    files = {name: runtime.file_sha256(step / name) for name in names}
    header = Header(run="this", world_size=1, events_offset=0, progress={"step": 3, "loss": 1.5e-5}, files=files)
    header.write(step / "checkpoint.json")
    return sorted(step.iterdir())


def use_checkpoint(home: Path) -> object:
    found, passed_over = find_checkpoint(home / "checkpoints", run="this")
    for line in passed_over:
        logging.getLogger("training").warning("%s", line)
    return found and found.header


def train_run() -> TrainRun:
    inputs = {"tokens": Path("/somewhere/tokens")}
    return TrainRun(stage="sft", config=SETTINGS, inputs=inputs, fingerprints={"tokens": "f"}, out_dir=Path("/else"))


class Job(Config):
    number: int


def write_number(job: Job, out_dir: Path, advance: Advance) -> None:
    (out_dir / "number").write_text(str(1000 + job.number), encoding="ascii")
    advance(1)


def use_pieces(home: Path) -> object:
    pieces = build_pieces(write_number, [Job(number=number) for number in range(2)], home / "pieces", workers=1)
    return [(piece / "number").read_bytes() for piece in pieces]


def write_pieces(home: Path) -> list[Path]:
    use_pieces(home)
    places = sorted(path for path in (home / "pieces").rglob("*") if path.is_file() and path.suffix != ".done")
    assert {path.suffix or path.name for path in places} == {"plan", ".sums", "number"}
    return places


def write_answers(home: Path) -> list[Path]:
    (home / "joined").mkdir(parents=True)
    for name in ("answers-00000.jsonl", "dropped.jsonl", "figures.json"):
        (home / name).write_text('{"generated": {"text": "yes"}}\n')
    batch.Joined(files=batch._sums(home)).write(home / "joined" / "files.json")
    return sorted(path for path in home.rglob("*") if path.is_file())


def use_answers(home: Path) -> object:
    """Whether they are taken; else they are made again."""
    return batch._sums(home) if batch._is_joined(home) else None


def references() -> dict[str, torch.Tensor]:
    return {"train": torch.arange(8.0).reshape(2, 4), "val": torch.tensor([[1.5], [-3.0]])}


def write_references(home: Path) -> list[Path]:
    path = home / "references" / "model.safetensors"
    assert reference._write(path, references()) == ""
    return [path]


def use_references(home: Path) -> object:
    splits = {name: SimpleNamespace(batches=SimpleNamespace(num_pairs=t.shape[1])) for name, t in references().items()}
    found, problem = reference._read(home / "references" / "model.safetensors", splits)  # type: ignore[arg-type]
    if problem:
        logging.getLogger("training").warning("%s", problem)
    return {name: table.tolist() for name, table in found.items()} or None


def module(home: Path) -> Path:
    return home / "module.py"


def use_code(home: Path) -> object:
    fingerprint._read_module.cache_clear()
    return fingerprint._read_module(module(home), 0)


def write_code(home: Path) -> list[Path]:
    module(home).write_text("from minimind import runtime\n\nNUMBER = 1\n")
    use_code(home)
    return list(home.rglob("*.code.json"))


def write_suite(home: Path) -> list[Path]:
    path = home / "piqa.jsonl"
    path.write_text('{"id": "piqa-0", "question": "Open a jar", "choices": ["Turn", "Sing"], "answer": 0}\n')
    hub_suites._sum_path(path).write_text(runtime.file_sha256(path))
    return [path, hub_suites._sum_path(path)]


def use_suite(home: Path) -> object:
    return hub_suites.fetch("piqa", home).read_bytes()


def write_events(home: Path) -> list[Path]:
    with EventWriter(home / "events.jsonl") as events:
        for step in range(1, 4):
            events.step(step, 3, {"loss": 1 / step})
        (home / "digest").write_text(f"{events.offset()} {events.digest()}")
    return [home / "events.jsonl"]


def use_events(home: Path) -> object:
    """What a training that goes on holds against its checkpoint."""
    offset, digest = (home / "digest").read_text().split()
    with EventWriter(home / "events.jsonl", keep_bytes=int(offset)) as events:
        if events.digest() != digest:
            logging.getLogger("training").warning("events.jsonl is not what it was")
            return None
    return (home / "events.jsonl").read_bytes()


SUMMARY = Trained(figures={"loss": 1.5, "lr": 1e-05, "note": "fine"}, samples=["Yes, I am."])
FAILURE = Failure(rank=1, time=1.5, kind="DataError", message="row 7 is empty", lines=["a", "b"])
SCRATCH_NOTE = "artifacts/sft/.0123456789abcdef.run"

KINDS: dict[str, Kind] = {
    "payload, read by a pipeline": Kind(
        of_the_toy("payload", "summary.json", "manifest.json"), lambda home: Store(home).find("sft", the_toy(home).name)
    ),
    "payload, of a directory that is named": Kind(
        of_the_toy("payload", "summary.json", "manifest.json"),
        lambda home: find_artifact(str(the_toy(home)), Store(home)),
    ),
    "a model that is served from its directory": Kind(
        of_the_toy("payload", "summary.json", "manifest.json"), lambda home: prove_model(the_toy(home))
    ),
    "a summary alone": Kind(of_the_toy("summary.json"), lambda home: open_artifact(the_toy(home)).summary()),
    "a manifest alone": Kind(of_the_toy("manifest.json"), lambda home: open_artifact(the_toy(home))),
    "a note of the registry": Kind(write_registration, lambda home: noted(home, "sft", the_toy(home).name)),
    "a verdict": Kind(write_verdict, lambda home: gate.kept(home, open_artifact(the_toy(home)))),
    "a flow run under way": Kind(write_run, running.own_end),
    "a pin": Kind(lambda home: [pin(toy(home), Store(home))], lambda home: pins(Store(home))),
    "an estimate": Kind(write_estimate, lambda home: forecast.find(home, "sft", SETTINGS, {"tokens": FINGERPRINT})),
    "a sweep": Kind(write_sweep, lambda home: read_comparison(home / "sweeps" / "one")),
    "a conversation": Kind(write_chat, use_chat, told=lambda home: bool(list((home / "chats").glob(f"*{DAMAGED}")))),
    "a checkpoint": Kind(write_checkpoint, use_checkpoint),
    "run.json": Kind(write_note(RUN_FILE, train_run()), read_note(RUN_FILE, TrainRun)),
    "training.json": Kind(write_note(TRAINING_FILE, SUMMARY), Trained.read),
    "failure-1.json": Kind(write_note("failure-1.json", FAILURE), read_note("failure-1.json", Failure)),
    "the run of a scratch directory": Kind(
        write_note(SCRATCH_NOTE, RunNote(run_id="a" * 32)), read_note(SCRATCH_NOTE, RunNote)
    ),
    "events of a training that goes on": Kind(write_events, use_events),
    "answers before they are sealed": Kind(write_answers, use_answers),
    "pieces, their sums and their plan": Kind(write_pieces, use_pieces, remade=True),
    "reference log-probabilities": Kind(write_references, use_references),
    "what was read of a module": Kind(write_code, use_code, remade=True),
    "a benchmark set that was fetched": Kind(write_suite, use_suite),
}


def flips(files: list[Path], count: int, *, seed: str) -> Iterator[tuple[Path, int]]:
    """Random places: a file, and a bit of it; every file has its turn."""
    chance, bits = random.Random(seed), [path.stat().st_size * 8 for path in files]
    for number in range(count):
        place = number % len(files)
        yield files[place], chance.randrange(bits[place])


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def assert_noticed(kind: Kind, home: Path, path: Path, before: object, log: pytest.LogCaptureFixture) -> None:
    """An error of ours that names a file, or a word about it and nothing that the flip made."""
    log.clear()
    try:
        found = kind.use(home)
    except MiniMindError as error:
        assert path.name in str(error) or path.parent.name in str(error), error
        return
    if kind.remade:
        assert found == before
        return
    assert found is None or str(found) in (str(before), str({the_toy(home).name: "?"})), found
    assert kind.told(home) or any(record.levelno >= logging.WARNING for record in log.records)


def check(name: str, home: Path, count: int, log: pytest.LogCaptureFixture) -> None:
    kind, place, copy = KINDS[name], home / "here", home / "copy"
    place.mkdir()
    files = kind.write(place)
    shutil.copytree(place, copy)
    before = kind.use(place)
    assert before is not None
    for path, bit in flips(files, count, seed=name):
        shutil.rmtree(place)
        shutil.copytree(copy, place)
        flip(path, bit)
        assert_noticed(kind, place, path, before, log)


@pytest.mark.parametrize("name", KINDS)
def test_a_flipped_bit_is_noticed_at_the_next_use(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bytecode(monkeypatch)
    check(name, tmp_path, FEW, caplog)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_none_of_200_flipped_bits_goes_unnoticed(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bytecode(monkeypatch)
    check(name, tmp_path, MANY, caplog)


def write_bytecode(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept of modules is kept beside what Python compiles of them, and only where that is."""
    monkeypatch.setattr("sys.dont_write_bytecode", False)
    monkeypatch.setattr("sys.pycache_prefix", None)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a manifest alone", "a note of the registry", "a verdict", "a pin", "a conversation"])
def test_every_single_bit_of_the_digest_and_its_name_is_noticed(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A note without a digest is believed, so no flip may make of one that has it one that has not."""
    kind, place = KINDS[name], tmp_path / "here"
    place.mkdir()
    (path,) = kind.write(place)
    raw = path.read_bytes()
    start = raw.index(b'"own_digest"')
    before = kind.use(place)
    for bit in range(8 * (start - 1), 8 * (start + len(b'"own_digest": "0123456789abcdef",') + 1)):
        if bit // 8 >= len(raw):
            break
        flip(path, bit)
        assert_noticed(kind, place, path, before, caplog)
        for aside in path.parent.glob(f"*{DAMAGED}"):
            aside.unlink()
        path.write_bytes(raw)


def test_a_flip_that_means_the_same_is_noticed_all_the_same(tmp_path: Path) -> None:
    """`1e-05` and `1E-05` are one bit and no meaning apart."""
    manifest = toy(tmp_path).dir / "manifest.json"
    raw = manifest.read_bytes()
    assert b"1.25e-05" in raw
    manifest.write_bytes(raw.replace(b"1.25e-05", b"1.25E-05"))
    assert Manifest.model_validate_json(manifest.read_bytes()) == Manifest.model_validate_json(raw)
    with pytest.raises(MiniMindError, match=r"manifest\.json: was changed since it was written"):
        open_artifact(manifest.parent)


@pytest.mark.parametrize("which", ["tokenizer", "chat", "preference", "pretrain"])
def test_every_file_of_a_real_artifact_is_proven(
    which: str, tokenizer_artifact: Artifact, token_artifacts: dict[RowKind, Artifact], tmp_path: Path
) -> None:
    """Rows, tokens, plans, pages and all: a flip in any of them, and `fsck` says which file it is."""
    real = tokenizer_artifact if which == "tokenizer" else token_artifacts[which]  # type: ignore[index]
    store = Store(tmp_path / "home")
    place = store.path(real.kind, real.fingerprint)
    shutil.copytree(real.dir, place)
    files = [place / entry.path for entry in real.manifest.files if entry.size]
    for path, bit in flips(files, len(files), seed=which):
        flip(path, bit)
        with pytest.raises(MiniMindError, match="its bytes changed since it was sealed"):
            store.find(real.kind, real.fingerprint)
        found = {f.path for f in examined(store, Copies(store)).findings if f.kind == "flipped"}
        assert found == {path.relative_to(tmp_path / "home").as_posix()}
        flip(path, bit)


class OtherWorld:
    """A registry in which the URI that Prefect kept, a bit later, names another artifact."""

    failures = (OSError,)

    def __init__(self, other: Artifact) -> None:
        self._other = other

    def resolve(self, uri: str, store: Store) -> Artifact:
        return self._other


def test_a_flip_in_a_uri_that_prefect_kept_gives_no_other_artifact(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """`models:/minimind-sft/3` and `…/2` are one bit apart, and both are there."""
    chain = Chain(tmp_path)
    own, other = (chain.stage("sft", Toy(lr=lr)) for lr in (1e-3, 2e-3))
    run = Pipeline("p", None, None, chain.store, OtherWorld(other), Display(quiet=True))  # type: ignore[arg-type]
    assert run._take("models:/minimind-sft/2", "sft", own.fingerprint).fingerprint == own.fingerprint
    assert "Prefect's note of it is wrong" in caplog.text


@pytest.mark.slow
def test_fsck_finds_each_of_200_flips_in_a_store(tmp_path: Path) -> None:
    """In any file of it: artifacts, and the notes of all parts."""
    home, store = tmp_path / "here", Store(tmp_path / "here")
    home.mkdir()
    for name in ("a note of the registry", "a verdict", "a pin", "an estimate", "a sweep", "a conversation"):
        KINDS[name].write(home)
    for path in (home / "registry").glob("*.lock"):
        path.unlink()
    assert not any(finding.is_damage for finding in examined(store, Copies(store)).findings)
    files = [path for path in sorted(home.rglob("*")) if path.is_file() and path.stat().st_size]
    for path, bit in flips(files, MANY, seed="fsck"):
        flip(path, bit)
        damaged = {finding.path for finding in examined(store, Copies(store)).findings if finding.is_damage}
        assert damaged == {path.relative_to(home).as_posix()}
        flip(path, bit)


def test_a_damaged_note_is_kept_and_the_next_is_written_beside_it(tmp_path: Path) -> None:
    """Two that are damaged one after the other are both there for who wants to read them."""
    for number in range(2):
        RunNote(run_id=str(number) * 32).write(tmp_path / "note.json")
        flip(tmp_path / "note.json", 200)
        assert RunNote.read_or_set_aside(tmp_path / "note.json", instead="it is written again") is None
    assert len(list(tmp_path.glob(f"note.json*{DAMAGED}"))) == 2
