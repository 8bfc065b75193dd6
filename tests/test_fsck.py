"""`minimind fsck`: every damage has its own word, and `--repair` mends what can be mended and loses nothing."""

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console
from toy_store import Chain, Toy

from flows.fsck import NOTES, fsck
from minimind import runtime
from minimind.artifact import MANIFEST_FILE, Artifact, Manifest, Store, Summary, open_artifact, verify
from minimind.config import Config
from minimind.errors import ArtifactError
from minimind.housekeeping.damage import KINDS, NO_DAMAGE
from minimind.housekeeping.pins import pin, pins
from minimind.proven import Proven
from minimind.stage import Stage, build
from tasks.registry import Registration, note_path
from tasks.tracking import Tracker

TOY = Toy()
TEXT = "the same bytes in two artifacts\n"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MINIMIND_HOME", str(tmp_path / "home"))
    return runtime.home()


@pytest.fixture
def model(home: Path) -> Artifact:
    """A toy model, its inputs beside it in the store."""
    return Chain(home).model(lr=2e-3)


def asked(*, repair: bool = False) -> tuple[bool, dict]:
    """What fsck says, for programs."""
    output = io.StringIO()
    well = fsck(Console(file=output), as_json=True, repair=repair)
    return well, json.loads(output.getvalue())


def kinds() -> set[str]:
    return {finding["kind"] for finding in asked()[1]["findings"]}


def payload(model: Artifact) -> Path:
    return model.dir / "payload"


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def note(model: Artifact) -> Path:
    """A note of the registry on a toy, as one of a server that is not asked."""
    home = model.dir.parents[2]
    path = note_path(home, model)
    Registration(tracking_uri="http://127.0.0.1:9", run_id="r" * 32, name="minimind-sft", version=1).write(path)
    return path


def cut(model: Artifact) -> None:
    os.truncate(payload(model), 3)


def grow(model: Artifact) -> None:
    with payload(model).open("ab") as file:
        file.write(b"more")


def replace_by_directory(model: Artifact) -> None:
    payload(model).unlink()
    payload(model).mkdir()


def replace_by_pipe(model: Artifact) -> None:
    """One that nobody writes to: who opens it waits for ever."""
    payload(model).unlink()
    os.mkfifo(payload(model))


def put_socket(model: Artifact) -> None:
    here = Path.cwd()
    os.chdir(model.dir)  # the path of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as open_socket:
            open_socket.bind("extra")
    finally:
        os.chdir(here)


def link_payload(target: str) -> Callable[[Artifact], None]:
    def plant(model: Artifact) -> None:
        outside = model.dir.parents[3] / "outside"
        shutil.copy(payload(model), outside)
        payload(model).unlink()
        payload(model).symlink_to(outside if target == "outside" else target)

    return plant


def link_directory(model: Artifact) -> None:
    elsewhere = model.dir.parents[3] / "elsewhere"
    shutil.move(model.dir, elsewhere)
    model.dir.symlink_to(elsewhere)


def link_extra_directory(model: Artifact) -> None:
    (model.dir / "extra").symlink_to("/")


def link_in_a_circle(model: Artifact) -> None:
    (model.dir / "extra").symlink_to("extra")


def hard_link(model: Artifact) -> None:
    os.link(payload(model), model.dir.parents[3] / "outside")


def hard_link_manifest(model: Artifact) -> None:
    os.link(model.dir / MANIFEST_FILE, model.dir.parents[3] / "outside")


def close_file(model: Artifact) -> None:
    payload(model).chmod(0)


def close_directory(model: Artifact) -> None:
    model.dir.chmod(0)


def close_manifest(model: Artifact) -> None:
    (model.dir / MANIFEST_FILE).chmod(0)


def forge_manifest(model: Artifact) -> None:
    """By one who knows how notes prove themselves: the parts do not give the fingerprint."""
    parts = model.manifest.parts
    model.manifest.replace(parts=parts.replace(config={**parts.config, "lr": 1.0})).write(model.dir / MANIFEST_FILE)


def lead_manifest_out(model: Artifact) -> None:
    """A path out of the directory, with a digest that is right."""
    values = model.manifest.model_dump(mode="json")
    values["files"][0]["path"] = "../../../../etc/passwd"
    from minimind.proven import write_note

    write_note(model.dir / MANIFEST_FILE, values)


def exchange_directories(model: Artifact) -> None:
    """Each in the place of the other."""
    other = Store(model.dir.parents[2]).path("pretrain", model.manifest.parents["model"])
    assert runtime.exchange(model.dir, other)


def rename_directory(model: Artifact) -> None:
    model.dir.rename(model.dir.with_name("0123456789abcdef"))


def lose_input(model: Artifact) -> None:
    shutil.rmtree(Store(model.dir.parents[2]).path("tokens", model.manifest.parents["tokens"]))


def change_parent(model: Artifact) -> None:
    """It says of what it was made otherwise than its fingerprint does."""
    parents = {**model.manifest.parents, "model": model.manifest.parents["tokens"]}
    model.manifest.replace(parents=parents).write(model.dir / MANIFEST_FILE)


def leave_scratch(model: Artifact) -> None:
    (model.dir.parent / ".0123456789abcdef.scratch").mkdir()


def leave_replaced(model: Artifact) -> None:
    model.dir.rename(model.dir.with_name(f".{model.fingerprint}.replaced"))


def leave_trash(model: Artifact) -> None:
    (model.dir.parent / ".0123456789abcdef.trash").mkdir()


def leave_half_a_note(model: Artifact) -> None:
    path = note(model)
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    path.with_name(f".{path.name}.{ended.stdout.strip()}.tmp").write_text("{")


def damage_note(model: Artifact) -> None:
    flip(note(model))


def leave_note(model: Artifact) -> None:
    note(model)
    shutil.rmtree(model.dir)


def damage_pin(model: Artifact) -> None:
    flip(pin(model, Store(model.dir.parents[2])))


def leave_pin(model: Artifact) -> None:
    pin(model, Store(model.dir.parents[2]))
    shutil.rmtree(model.dir)


PLANTED: dict[str, tuple[Callable[[Artifact], object], str]] = {
    "a file is missing": (lambda model: payload(model).unlink(), "missing-file"),
    "an extra file": (lambda model: (model.dir / "extra").write_text("?"), "extra-file"),
    "an extra socket": (put_socket, "extra-file"),
    "a file beside the artifacts": (lambda model: (model.dir.parent / "extra").write_text("?"), "extra-file"),
    "a tail cut off": (cut, "cut"),
    "a file that grew": (grow, "grown"),
    "a bit": (lambda model: flip(payload(model)), "flipped"),
    "a bit of the summary": (lambda model: flip(model.dir / "summary.json"), "flipped"),
    "a directory for a file": (replace_by_directory, "not-a-file"),
    "a pipe for a file": (replace_by_pipe, "not-a-file"),
    "a closed file": (close_file, "unreadable"),
    "a closed directory": (close_directory, "unreadable"),
    "a closed manifest": (close_manifest, "unreadable"),
    "a bit of the manifest": (lambda model: flip(model.dir / MANIFEST_FILE), "manifest-damaged"),
    "a forged manifest": (forge_manifest, "manifest-damaged"),
    "a manifest that leads out": (lead_manifest_out, "manifest-damaged"),
    "no manifest": (lambda model: (model.dir / MANIFEST_FILE).unlink(), "manifest-missing"),
    "two directories exchanged": (exchange_directories, "wrong-place"),
    "a directory renamed": (rename_directory, "wrong-place"),
    "an input that is gone": (lose_input, "input-missing"),
    "an input in whose place another is": (exchange_directories, "input-changed"),
    "other parents": (change_parent, "manifest-damaged"),
    "a scratch directory": (leave_scratch, "leftover"),
    "a replacement broken off": (leave_replaced, "leftover"),
    "a removal broken off": (leave_trash, "leftover"),
    "a note half written": (leave_half_a_note, "leftover"),
    "a note of the registry": (damage_note, "note-damaged"),
    "a note on what is gone": (leave_note, "note-dangling"),
    "a pin": (damage_pin, "note-damaged"),
    "a pin of what is gone": (leave_pin, "pin-dangling"),
    "a link to nothing": (link_payload("nothing"), "broken-link"),
    "a link in a circle": (link_in_a_circle, "link-outside"),
    "a link to the file beside it": (link_payload("summary.json"), "link"),
    "a link that leads out": (link_payload("outside"), "link-outside"),
    "a link for the directory": (link_directory, "link-outside"),
    "a link to everything": (link_extra_directory, "link-outside"),
    "a second name": (hard_link, "hard-link"),
    "a second name of the manifest": (hard_link_manifest, "hard-link"),
}


def test_a_whole_store_has_no_findings(model: Artifact) -> None:
    pin(model, Store(model.dir.parents[2]))
    note(model)
    well, found = asked()
    assert well and found["findings"] == [] and found["whole"] == found["artifacts"] == 9


@pytest.mark.parametrize("damage", PLANTED)
def test_every_damage_is_told_by_its_word_and_mended_once(model: Artifact, home: Path, damage: str) -> None:
    """What can be mended without a registry is; the rest is put aside, and said to be. A second repair finds nothing
    to do, and what nobody sealed is still somewhere."""
    plant, word = PLANTED[damage]
    plant(model)
    well, found = asked()
    of_it = [finding for finding in found["findings"] if finding["kind"] == word]
    assert of_it, found
    assert all(finding["remedy"] and finding["detail"] for finding in found["findings"])
    assert well == (not any(finding["damage"] for finding in found["findings"]))
    assert well == (word in NO_DAMAGE or damage == "a replacement broken off")
    mended, after = asked(repair=True)
    assert after["mended"] or word in ("leftover", "input-missing"), after
    left = {finding["kind"] for finding in after["findings"]}
    assert left <= {"input-missing", "leftover"}, after
    assert mended == ("input-missing" not in left)
    again, unchanged = asked(repair=True)
    assert again == mended and unchanged["mended"] == [] and unchanged["findings"] == after["findings"]
    for artifact in Store(home).all():
        verify(artifact)


def test_the_words_are_all_planted_somewhere() -> None:
    """A word that no test plants is one that nobody can rely on."""
    elsewhere = {"checkpoint-damaged", "input-elsewhere"}
    assert {word for _, word in PLANTED.values()} | elsewhere == set(KINDS)


def test_several_damages_of_one_artifact_are_all_told(model: Artifact) -> None:
    """A message that names the first file only has people repair a store ten times."""
    cut(model)
    flip(model.dir / "summary.json")
    (model.dir / "extra").write_text("?")
    assert kinds() == {"cut", "flipped", "extra-file"}


def test_what_was_put_aside_lies_where_it_is_said_to(model: Artifact, home: Path) -> None:
    (model.dir / "notes of mine.txt").write_text("weeks of work")
    _, found = asked(repair=True)
    (mend,) = found["mended"]
    place = home / mend["detail"].removeprefix("to ").partition(": ")[0]
    assert mend["did"] == "put-aside" and place.read_text() == "weeks of work"
    assert place.relative_to(home).parts[0] == "quarantine"


def test_a_damaged_artifact_is_put_aside_whole_and_the_next_run_makes_it_again(model: Artifact, home: Path) -> None:
    flip(payload(model))
    well, found = asked(repair=True)
    assert well and [mend["did"] for mend in found["mended"]] == ["put-aside"]
    assert not model.dir.exists()
    assert len(list(home.glob(f"quarantine/*/artifacts/sft/{model.fingerprint}/payload"))) == 1
    again = Chain(home).model(lr=2e-3)
    assert again.dir == model.dir and asked()[0]


class Text(Config):
    name: str


def write(config: Text, inputs, out_dir: Path) -> Summary:
    (out_dir / config.name).write_text(TEXT)
    return Summary()


def test_a_file_that_another_artifact_has_too_is_copied_from_it(home: Path) -> None:
    """Every model has its tokenizer's files; a flipped bit in one of them need not cost a training."""
    stage, store = Stage("write", write), Store(home)
    one, other = (build(stage, Text(name=name), {}, store=store)[0] for name in ("one", "other"))
    flip(one.dir / "one")
    well, found = asked(repair=True)
    assert well and {mend["did"] for mend in found["mended"]} == {"put-aside", "copied"}
    verify(open_artifact(one.dir))
    assert (one.dir / "one").stat().st_nlink == 1 and (other.dir / "other").exists()


def test_a_directory_under_a_wrong_name_goes_where_it_belongs(model: Artifact) -> None:
    exchange_directories(model)
    assert kinds() >= {"wrong-place"}
    assert asked(repair=True)[0]
    assert open_artifact(model.dir).fingerprint == model.fingerprint


def test_a_training_that_was_broken_off_keeps_what_it_goes_on_from(model: Artifact) -> None:
    scratch = model.dir.parent / ".0123456789abcdef.scratch"
    (scratch / "checkpoints").mkdir(parents=True)
    (scratch / "checkpoints" / "step").write_text("hours")
    well, found = asked(repair=True)
    assert well and [finding["kind"] for finding in found["findings"]] == ["leftover"]
    assert (scratch / "checkpoints" / "step").read_text() == "hours"


def test_a_damaged_checkpoint_is_told_of(model: Artifact) -> None:
    step = model.dir.parent / ".0123456789abcdef.scratch" / "checkpoints" / "step-00000003"
    step.mkdir(parents=True)
    (step / "checkpoint.json").write_text("{")
    assert "checkpoint-damaged" in kinds()
    assert asked(repair=True)[0] and not step.exists()


def test_what_was_never_here_is_no_damage(model: Artifact, home: Path) -> None:
    """A model fetched from a registry comes without the rows it was made of."""
    fetched = Store(home.parent / "another")
    target = fetched.path("sft", model.fingerprint)
    shutil.copytree(model.dir, target)
    Manifest.replace(model.manifest, host={"name": "the machine that made it"}).write(target / MANIFEST_FILE)
    shutil.rmtree(home)
    fetched.root.parent.rename(home)
    well, found = asked()
    assert well and {finding["kind"] for finding in found["findings"]} == {"input-elsewhere"}


def test_nothing_is_repaired_under_a_running_pipeline(model: Artifact) -> None:
    flip(payload(model))
    with Store(model.dir.parents[2]).in_use(), pytest.raises(ArtifactError, match="a pipeline runs on this store"):
        asked(repair=True)
    assert model.dir.exists()


def test_an_artifact_that_is_being_built_is_no_leftover(model: Artifact) -> None:
    store = Store(model.dir.parents[2])
    with store.building("sft", "0123456789abcdef"):
        assert kinds() == set()


@pytest.mark.parametrize("kind", NOTES, ids=lambda kind: kind.read.__name__)
def test_a_damaged_note_of_any_part_is_told_of_and_put_aside(kind, home: Path) -> None:
    path = home / kind.places.replace("[!.]*", "one-two").replace("*", "one")
    path.parent.mkdir(parents=True)
    path.write_text('{"own_digest": "0123456789abcdef"}')
    well, found = asked()
    assert not well and [finding["kind"] for finding in found["findings"] if finding["damage"]][0] == "note-damaged"
    assert asked(repair=True)[0]
    assert not path.exists() and len(list(home.glob(f"quarantine/**/{path.name}"))) == 1


KILLED_REPAIR = """
import os, signal, sys
from pathlib import Path
left = int(sys.argv[1])
def counting(function):
    def call(*arguments, **named):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **named)
    return call
import shutil
shutil.move = counting(shutil.move)
for name in ("rename", "replace", "rmdir", "unlink"):
    setattr(Path, name, counting(getattr(Path, name)))
from rich.console import Console
from flows.fsck import fsck
fsck(Console(), as_json=True, repair=True)
"""


@pytest.mark.slow
def test_a_repair_that_is_killed_anywhere_is_ended_by_the_next(home: Path, tmp_path: Path) -> None:
    """At every change to a name: what was to be put aside is somewhere, and nothing is half there."""
    stage, store = Stage("write", write), Store(home)
    one, other = (build(stage, Text(name=name), {}, store=store)[0] for name in ("one", "other"))
    flip(one.dir / "one")
    (one.dir / "extra").write_text("mine")
    flip(pin(one, store))
    rename_directory(other)
    shutil.copytree(home, tmp_path / "before")
    for kills in range(40):
        shutil.rmtree(home)
        shutil.copytree(tmp_path / "before", home)
        done = subprocess.run([sys.executable, "-c", KILLED_REPAIR, str(kills)], capture_output=True, text=True)
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        assert asked(repair=True)[0], kills
        assert {artifact.fingerprint for artifact in store.all()} == {one.fingerprint, other.fingerprint}
        assert pins(store) == {one.fingerprint: "write"}
        (mine,) = (path for path in home.rglob("*extra*") if path.is_file())
        assert mine.read_text() == "mine"
        if done.returncode == 0:
            return
    pytest.fail("40 kills did not reach the end")


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tracker, Artifact, Artifact]:
    """A model and its rows, both told to MLflow, whose database takes seconds to make. Every test leaves it whole."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        home = tmp_path_factory.mktemp("registered") / "home"
        chain, tracker = Chain(home), Tracker(home)
        rows = chain.stage("ingest", TOY, source="a1")
        sft = chain.stage("sft", Toy(lr=2e-3), rows=rows)
        tracker.sync(chain.store)
    return tracker, rows, sft


@pytest.fixture
def recorded(
    registered: tuple[Tracker, Artifact, Artifact], monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Tracker, Artifact, Artifact]]:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MINIMIND_HOME", str(registered[0].home))
    yield registered
    assert asked()[0]


def test_a_registered_model_is_fetched_and_not_trained_again(recorded: tuple[Tracker, Artifact, Artifact]) -> None:
    """Its damaged files one by one, and whole where it is gone in all but its name."""
    _, _, sft = recorded
    flip(payload(sft))
    os.truncate(sft.dir / "summary.json", 2)
    well, found = asked(repair=True)
    assert well and {mend["did"] for mend in found["mended"]} == {"put-aside", "fetched"}
    verify(open_artifact(sft.dir))
    shutil.rmtree(sft.dir)
    sft.dir.mkdir()
    assert kinds() == {"manifest-missing"} and asked(repair=True)[0]
    verify(open_artifact(sft.dir))


def test_a_lost_input_is_fetched_where_the_registry_has_it_whole(recorded: tuple[Tracker, Artifact, Artifact]) -> None:
    tracker, _, sft = recorded
    chain = Chain(tracker.home)
    chat = chain.stage("publish", TOY, model=sft)
    shutil.rmtree(sft.dir)
    assert kinds() == {"input-missing"}
    well, found = asked(repair=True)
    assert well and [mend["did"] for mend in found["mended"]] == ["fetched"]
    assert sft.dir.exists() and chat.dir.exists()


@pytest.mark.parametrize("plant", [damage_note, None], ids=["damaged", "of a run that is gone"])
def test_a_note_of_the_registry_is_written_again_from_mlflow(recorded: tuple, plant: object) -> None:
    tracker, _, sft = recorded
    path = note_path(tracker.home, sft)
    before = Registration.read_json(path, remedy="")
    if plant:
        flip(path)
    else:
        before.replace(run_id="0" * 32).write(path)
    assert kinds() == {"note-damaged" if plant else "note-dangling"}
    assert asked(repair=True)[0]
    assert Registration.read_json(path, remedy="") == before
    assert before.name not in {one.name for one in tracker.sync(Store(tracker.home))}


@pytest.mark.parametrize("label", ["ingest", "sft"])
def test_a_lost_manifest_comes_back_from_mlflow(recorded: tuple[Tracker, Artifact, Artifact], label: str) -> None:
    """Of rows too, which MLflow does not hold itself: the payload is there and is proven by it."""
    artifact = next(one for one in recorded[1:] if one.kind == label)
    flip(artifact.dir / MANIFEST_FILE)
    well, found = asked(repair=True)
    assert well and {mend["did"] for mend in found["mended"]} == {"put-aside", "fetched"}
    verify(open_artifact(artifact.dir))


def test_what_a_registry_that_is_down_should_have_stays_where_it_is(
    recorded: tuple[Tracker, Artifact, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Put aside it would be trained again, for hours, though MLflow has it whole."""
    _, _, sft = recorded
    flip(payload(sft))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    well, found = asked(repair=True)
    assert not well and sft.dir.exists() and found["mended"] == []
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert asked(repair=True)[0]


def test_people_read_the_word_the_file_and_the_remedy_on_one_line(model: Artifact, capsys) -> None:
    flip(payload(model))
    assert not fsck(Console(width=60), as_json=False)
    line = next(line for line in capsys.readouterr().out.splitlines() if "flipped" in line)
    assert f"artifacts/sft/{model.fingerprint}/payload" in line and "minimind fsck --repair" in line


def test_a_note_without_a_digest_is_read_as_before(tmp_path: Path) -> None:
    class Old(Proven):
        words: str

    (tmp_path / "old.json").write_text('{"words": "from before"}')
    assert Old.read_json(tmp_path / "old.json", remedy="").words == "from before"
