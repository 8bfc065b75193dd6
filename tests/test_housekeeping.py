"""What a store may lose: never anything that is needed, never under a running pipeline, never by half."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from toy_store import Chain

from minimind.artifact import Artifact, Store
from minimind.errors import ArtifactError, MissingError
from minimind.housekeeping.pins import pin, pins, unpin
from minimind.housekeeping.removal import Plan, plan_removal, remove
from minimind.lineage import ancestors, by_fingerprint


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    return Chain(tmp_path)


def paths_of(plan: Plan, kind: str) -> set[str]:
    return {leftover.path for leftover in plan.leftovers if leftover.kind == kind}


def places(*artifacts: Artifact) -> set[str]:
    return {f"{artifact.kind}/{artifact.fingerprint}" for artifact in artifacts}


def test_what_an_alias_needs_stays_down_to_the_sources(chain: Chain) -> None:
    """The old model's own chat rows go with it; the base model is shared and stays."""
    old, new = chain.model(chat_bytes="c0"), chain.model(chat_bytes="c1", lr=2e-3)
    plan = plan_removal(chain.store, {new.fingerprint: "models:/minimind-sft@candidate"})
    only_old = [one for fingerprint, one in ancestors(old).items() if fingerprint not in ancestors(new)]
    assert paths_of(plan, "artifact") == places(*only_old)
    assert plan.kept == dict.fromkeys(ancestors(new), "models:/minimind-sft@candidate")
    assert plan.bytes_freed > 0 and plan.bytes_kept > 0
    gone = list(remove(chain.store, plan.leftovers))
    assert [one.path for one in gone] == [one.path for one in plan.leftovers]
    assert all(by_fingerprint(chain.store, fingerprint) for fingerprint in plan.kept)
    assert not any(by_fingerprint(chain.store, one.fingerprint) for one in only_old)
    assert not plan_removal(chain.store, {new.fingerprint: "it"}).leftovers


def test_the_note_of_the_registry_goes_with_what_it_is_about(chain: Chain) -> None:
    """Else `minimind fsck` would find a damage after every `gc`."""
    old, new = chain.model(chat_bytes="c0"), chain.model(chat_bytes="c1")
    notes = chain.store.root.parent / "registry"
    notes.mkdir()
    for model in (old, new):
        (notes / f"sft-{model.fingerprint}.json").write_text("{}")
    list(remove(chain.store, plan_removal(chain.store, {new.fingerprint: "it"}).leftovers))
    assert [path.name for path in notes.iterdir()] == [f"sft-{new.fingerprint}.json"]


def test_a_pin_keeps_like_an_alias(chain: Chain) -> None:
    old, new = chain.model(chat_bytes="c0"), chain.model(chat_bytes="c1")
    pin(old, chain.store)
    assert pins(chain.store) == {old.fingerprint: "sft"}
    assert not plan_removal(chain.store, {new.fingerprint: "it"}).leftovers
    unpin(old, chain.store)
    assert places(old) <= paths_of(plan_removal(chain.store, {new.fingerprint: "it"}), "artifact")
    with pytest.raises(MissingError, match="is not pinned; pinned: nothing"):
        unpin(old, chain.store)


def test_leftovers_are_told_apart_and_a_resume_is_left_its_day(chain: Chain) -> None:
    """A broken off training is hours of work; a reference of a token set that goes is nothing."""
    model = chain.model()
    stage = chain.store.root / "sft"
    for name in (".aaaa.scratch", ".bbbb.scratch", ".cccc.references", ".dddd.replaced", ".eeee.trash"):
        (stage / name).mkdir()
        (stage / name / "file").write_text("left")
    long_ago = time.time() - 3 * 86_400
    for path in (stage / ".bbbb.scratch" / "file", stage / ".bbbb.scratch"):
        os.utime(path, (long_ago, long_ago))
    (stage / f".{model.fingerprint}.references").mkdir()
    (stage / ".aaaa.lock").touch()
    (stage / "ffff").mkdir()  # without a manifest
    plan = plan_removal(chain.store, {model.fingerprint: "it"})
    assert paths_of(plan, "unfinished") == {"sft/.bbbb.scratch"}
    assert paths_of(plan, "references") == {"sft/.cccc.references"}
    assert paths_of(plan, "rest") == {"sft/.dddd.replaced", "sft/.eeee.trash"}
    assert paths_of(plan, "damaged") == {"sft/ffff"}
    assert "sft/.aaaa.scratch" in paths_of(plan_removal(chain.store, {}, unfinished_days=0), "unfinished")
    list(remove(chain.store, plan.leftovers))
    assert not plan_removal(chain.store, {model.fingerprint: "it"}).leftovers


HOLD = """
import sys, time
from pathlib import Path
from minimind.artifact import Store
with Store(Path(sys.argv[1])).in_use():
    print("held", flush=True)
    time.sleep(60)
"""


def test_nothing_goes_while_a_pipeline_runs_and_a_killed_one_holds_nothing(chain: Chain, tmp_path: Path) -> None:
    """It may be about to read what no alias needs yet."""
    chain.model()
    plan = plan_removal(chain.store, {})
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as held:
        assert held.stdout is not None and held.stdout.readline() == "held\n"
        with pytest.raises(ArtifactError, match="a pipeline runs on this store"), chain.store.alone():
            raise AssertionError
        held.send_signal(signal.SIGKILL)
    with chain.store.alone():
        assert len(list(remove(chain.store, plan.leftovers))) == len(plan.leftovers) == 9


def test_a_removal_that_is_killed_leaves_no_half_artifact(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory is renamed before its first file goes, and the next removal ends what was begun."""
    chain.model()
    plan = plan_removal(chain.store, {})
    monkeypatch.setattr("shutil.rmtree", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        list(remove(chain.store, plan.leftovers))
    monkeypatch.undo()
    assert len(list(Store(chain.store.root.parent).all())) == 8
    left = plan_removal(chain.store, {})
    assert len(paths_of(left, "rest")) == 1
    list(remove(chain.store, left.leftovers))
    assert not plan_removal(chain.store, {}).leftovers
