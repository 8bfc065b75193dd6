"""Artifacts: whole or not there, and every changed byte is noticed."""

import errno
import os
import re
from pathlib import Path

import pytest

from minimind.artifact import Artifact, Store, Summary, open_artifact
from minimind.config import Config
from minimind.errors import ArtifactError, ConfigError, MissingError, StageError
from minimind.stage import Stage, build


class WriteConfig(Config):
    text: str = "hello"


def write(config: WriteConfig, inputs, out_dir: Path) -> Summary:
    (out_dir / "deep").mkdir()
    (out_dir / "deep" / "payload.txt").write_text(config.text)
    return Summary(figures={"characters": len(config.text)})


def fail(config: WriteConfig, inputs, out_dir: Path) -> Summary:
    with (out_dir / "tries").open("a") as file:
        file.write("x")
    if len((out_dir / "tries").read_text()) < 3:
        raise RuntimeError("not yet")
    return Summary()


WRITE = Stage("write", write)


def sealed(store: Store, text: str = "hello") -> Artifact:
    return build(WRITE, WriteConfig(text=text), {}, store=store)[0]


def test_a_stage_that_is_there_is_reused_and_another_setting_is_not(tmp_path):
    store = Store(tmp_path)
    first, reused_first = build(WRITE, WriteConfig(), {}, store=store)
    again, reused_again = build(WRITE, WriteConfig(), {}, store=store)
    other, reused_other = build(WRITE, WriteConfig(text="bye"), {}, store=store)
    assert (reused_first, reused_again, reused_other) == (False, True, False)
    assert first.dir == again.dir != other.dir
    assert first.summary().figures == {"characters": 5}
    assert not list(store.root.glob("write/*.scratch"))


def test_every_flipped_byte_of_a_payload_is_noticed_and_the_artifact_rebuilt(tmp_path, caplog):
    """Storage lies now and then; an artifact that changed must not become the next stage's input."""
    store = Store(tmp_path)
    artifact = sealed(store)
    path = artifact.dir / "deep" / "payload.txt"
    path.write_text("jello")
    with pytest.raises(ArtifactError, match=r"payload\.txt: its bytes changed"):
        store.find("write", artifact.fingerprint)
    rebuilt, reused = build(WRITE, WriteConfig(), {}, store=store)
    assert not reused
    assert "built again" in caplog.text
    assert (rebuilt.dir / "deep" / "payload.txt").read_text() == "hello"


@pytest.mark.parametrize("damage", ["missing", "short", "manifest", "parts"])
def test_other_damage_is_told_apart(tmp_path, damage: str):
    store = Store(tmp_path)
    artifact = sealed(store)
    payload, manifest = artifact.dir / "deep" / "payload.txt", artifact.dir / "manifest.json"
    if damage == "missing":
        payload.unlink()
    elif damage == "short":
        payload.write_text("hell")
    elif damage == "manifest":
        manifest.write_text(manifest.read_text()[:-20])
    else:
        manifest.write_text(manifest.read_text().replace('"text": "hello"', '"text": "hallo"'))
    with pytest.raises(ArtifactError):
        store.find("write", artifact.fingerprint)


def test_a_resumable_stage_finds_what_its_last_try_left_and_another_does_not(tmp_path):
    store = Store(tmp_path)
    resumable = Stage("fail", fail, resumable=True)
    for _ in range(2):
        with pytest.raises(RuntimeError):
            build(resumable, WriteConfig(), {}, store=store)
    artifact, _ = build(resumable, WriteConfig(), {}, store=store)
    assert (artifact.dir / "tries").read_text() == "xxx"
    forgetful = Stage("forgetful", fail)
    for _ in range(4):
        with pytest.raises(RuntimeError):
            build(forgetful, WriteConfig(), {}, store=store)


def test_every_changed_word_of_a_manifest_is_noticed(tmp_path):
    """Also of those that no fingerprint holds: when, by whom, of which parents."""
    artifact = sealed(Store(tmp_path))
    path = artifact.dir / "manifest.json"
    path.write_text(path.read_text().replace('"seconds": ', '"seconds": 1'))
    with pytest.raises(ArtifactError, match=r"manifest\.json: was changed since it was written"):
        open_artifact(artifact.dir)


class Interrupted(BaseException):
    """Stands for a kill: nothing after it is done."""


def interrupted_before_its_rename(store: Store, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The scratch directory of a stage whose seal was broken off."""

    def place(*_: object) -> None:
        raise Interrupted

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(Store, "place", place)
        build(stage, WriteConfig(), {}, store=store)
    (scratch,) = store.root.glob("*/*.scratch")
    return scratch


def keep_going(config: WriteConfig, inputs, out_dir: Path) -> Summary:
    (out_dir / "saves").mkdir(exist_ok=True)
    with (out_dir / "saves" / "tries").open("a") as file:
        file.write("x")
    (out_dir / "tries").write_text((out_dir / "saves" / "tries").read_text())
    return Summary()


KEEP_GOING = Stage("keep_going", keep_going, resumable=True, leaves=("saves",))


def test_a_seal_that_lacked_its_rename_is_ended_by_the_next_build(tmp_path, monkeypatch):
    """Hours of training must not be done again for want of one system call."""
    store = Store(tmp_path)
    interrupted_before_its_rename(store, KEEP_GOING, monkeypatch)
    artifact, reused = build(KEEP_GOING, WriteConfig(), {}, store=store)
    assert reused and (artifact.dir / "tries").read_text() == "x"
    assert not (artifact.dir / "saves").exists() and not list(store.root.glob("*/*.scratch"))


def test_what_a_stage_goes_on_from_outlives_a_damaged_seal(tmp_path, monkeypatch):
    """The files of a seal are proven before they are believed; what is beside them is not thrown away for it."""
    store = Store(tmp_path)
    scratch = interrupted_before_its_rename(store, KEEP_GOING, monkeypatch)
    (scratch / "tries").write_text("y")
    (scratch / "saves").mkdir()
    (scratch / "saves" / "tries").write_text("x")
    artifact, reused = build(KEEP_GOING, WriteConfig(), {}, store=store)
    assert not reused and (artifact.dir / "tries").read_text() == "xx"


@pytest.mark.parametrize("exchanges", [True, False])
def test_a_replaced_artifact_leaves_nothing_behind(tmp_path, monkeypatch, exchanges: bool):
    """Where two directories can change places in one step, and where they cannot."""
    if not exchanges:
        monkeypatch.setattr("minimind.runtime.exchange", lambda *_: False)
    store = Store(tmp_path)
    first = sealed(store)
    again, reused = build(WRITE, WriteConfig(), {}, store=store, refresh=True)
    assert not reused and again.manifest.created_at >= first.manifest.created_at
    assert [path.name for path in again.dir.parent.iterdir() if path.suffix != ".lock"] == [again.dir.name]


def test_a_file_that_a_killed_process_was_writing_is_no_part_of_an_artifact(tmp_path):
    """A rank that dies while it leaves a note of what ended it, in a directory that the next try goes on in."""
    store, resumable = Store(tmp_path), Stage("fail", fail, resumable=True)
    for _ in range(2):
        with pytest.raises(RuntimeError):
            build(resumable, WriteConfig(), {}, store=store)
    (scratch,) = store.root.glob("fail/.*.scratch")
    (scratch / ".failure-0.json.4321.tmp").write_bytes(b"")
    artifact, _ = build(resumable, WriteConfig(), {}, store=store)
    assert sorted(path.name for path in artifact.dir.iterdir()) == ["manifest.json", "summary.json", "tries"]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, "no space is left in {path}; make room"),
        (errno.EDQUOT, "no space is left in {path}; make room"),
        (errno.EACCES, "{path}: Permission denied; give this user the right"),
        (errno.EROFS, "{path}: Read-only file system; have that disk mounted for writing"),
        (errno.EIO, "{path}: Input/output error; look at the disk"),
    ],
)
@pytest.mark.parametrize("named", [True, False])
def test_what_a_disk_does_is_said_with_place_and_remedy(tmp_path, code: int, words: str, named: bool):
    """Not "OSError: [Errno 28]", and never as a server that does not answer."""
    place = str(tmp_path / "somewhere") if named else None

    def write_badly(config: WriteConfig, inputs, out_dir: Path) -> Summary:
        raise OSError(code, os.strerror(code), place)

    store = Store(tmp_path)
    expected = re.escape(f"write: {words.format(path=place or store.root / 'write')}")
    with pytest.raises(StageError, match=f"{expected}.* and run it again$"):
        build(Stage("write", write_badly), WriteConfig(), {}, store=store)


def test_an_error_that_is_no_disk_stays_what_it_is(tmp_path):
    def ask(config: WriteConfig, inputs, out_dir: Path) -> Summary:
        raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")

    with pytest.raises(ConnectionRefusedError):
        build(Stage("ask", ask), WriteConfig(), {}, store=Store(tmp_path))


def test_an_artifact_depends_on_its_inputs(tmp_path):
    def copy(config: WriteConfig, inputs, out_dir: Path) -> Summary:
        (out_dir / "copy").write_bytes((inputs["source"].dir / "deep" / "payload.txt").read_bytes())
        return Summary()

    store, stage = Store(tmp_path), Stage("copy", copy, inputs=("source",))
    one, _ = build(stage, WriteConfig(), {"source": sealed(store, "a")}, store=store)
    two, _ = build(stage, WriteConfig(), {"source": sealed(store, "b")}, store=store)
    assert one.fingerprint != two.fingerprint
    assert one.manifest.parents == {"source": sealed(store, "a").fingerprint}
    with pytest.raises(ConfigError, match="stage copy reads source"):
        build(stage, WriteConfig(), {}, store=store)


def test_no_artifact_is_an_error_that_says_so(tmp_path):
    with pytest.raises(MissingError, match="no artifact here"):
        open_artifact(tmp_path)
