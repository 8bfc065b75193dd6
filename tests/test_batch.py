"""Batch inference: every row of a file answered once, in order, whoever did it and whatever happened in between."""

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from engine_parts import GivenModel, given_model

from minimind.artifact import Artifact, Store
from minimind.data.documents import check_row
from minimind.data.dropped import read_dropped
from minimind.data.reading.shapes import convert
from minimind.errors import ConfigError, DataError, MissingError
from minimind.events import EVENTS_FILE, read_events
from minimind.infer import batch
from minimind.infer.batch import GENERATE, GenerateConfig, copy_answers
from minimind.infer.sampling import Sampling
from minimind.lineage import lineage_of
from minimind.stage import Stage, build

SHORT = Sampling(max_tokens=6, seed=3)
Ask = Callable[..., Artifact]


SFT = Stage("sft", given_model)


@pytest.fixture(scope="module")
def model(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return build(SFT, GivenModel(path=str(base)), {}, store=Store(tmp_path_factory.mktemp("models")))[0]


@pytest.fixture
def ask(model: Artifact, tmp_path: Path) -> Ask:
    """`ask(rows or path, home=…, **settings)`: the artifact of their answers, in a store of its own by default."""
    numbers = iter(range(1000))

    def answer(rows: list[Any] | Path, *, home: Path | None = None, **settings: Any) -> Artifact:
        number = next(numbers)
        path = rows if isinstance(rows, Path) else write(tmp_path / f"asked{number}" / "questions.jsonl", rows)
        config = GenerateConfig(input=str(path), **({"sampling": SHORT, "device": "cpu"} | settings))
        return build(GENERATE, config, {"model": model}, store=Store(home or tmp_path / f"home{number}"))[0]

    return answer


def write(path: Path, rows: list[Any]) -> Path:
    """A file of rows; what is no object is written as it is, as a line."""
    path.parent.mkdir(exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def answers(artifact: Artifact) -> list[dict[str, Any]]:
    lines = b"".join(path.read_bytes() for path in sorted(artifact.dir.glob("answers-*.jsonl")))
    return [json.loads(line) for line in lines.splitlines()]


def content(artifact: Artifact) -> dict[str, bytes]:
    """What must be the same to the byte: answers and what was kept aside."""
    return {path.name: path.read_bytes() for path in artifact.dir.glob("*.jsonl") if path.name != EVENTS_FILE}


def question(text: str, **others: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **others}


def test_rows_come_back_in_order_with_their_keys_and_their_answers(ask: Ask):
    rows = [question(f"boat {n} 小猫", id=n, answer="gold", meta={"a": [1.5, None]}) for n in range(5)]
    artifact = ask(rows)
    made = answers(artifact)
    for number, (row, found) in enumerate(zip(rows, made, strict=True), 1):
        generated = found.pop("generated")
        assert found.pop("messages")[:-1] == row.pop("messages") and found == row
        assert (generated["file"], generated["line"]) == ("questions.jsonl", number)
        assert 0 < generated["completion_tokens"] <= 6 and generated["prompt_tokens"] > 10
    figures = artifact.summary().figures
    assert (figures["rows"], figures["answered"], figures["dropped"]) == (5, 5, 0)
    assert figures["completion_tokens"] == sum(
        json.loads(line)["generated"]["completion_tokens"]
        for line in (artifact.dir / "answers-00000.jsonl").read_text("utf-8").splitlines()
    )
    assert figures["tokens_per_second"] > 0


def test_an_answer_depends_on_its_row_and_its_number_alone(ask: Ask):
    """Another row above must not change what a row below is told, nor how many are answered at once."""
    rows = [question(f"stars {n}") for n in range(6)]
    made = [row["generated"] for row in answers(ask(rows))]
    longer = [*rows[:2], question("a much longer question about bread and stars " * 5), *rows[3:]]
    others = [row["generated"] for row in answers(ask(longer, max_batch=2))]
    assert [made[n] for n in (0, 1, 3, 4, 5)] == [others[n] for n in (0, 1, 3, 4, 5)]
    assert made[2] != others[2]
    same = [row["generated"] for row in answers(ask([question("stars")] * 4, sampling=SHORT.replace(temperature=5.0)))]
    assert len({one["text"] for one in same}) == 4 and len({one["seed"] for one in same}) == 4


def test_a_row_can_be_repeated_with_the_seed_that_is_written(ask: Ask, model: Artifact):
    from minimind.infer.generate import complete, load, prompt_ids

    (row,) = answers(ask([{"prompt": "the small boat"}], sampling=SHORT.replace(temperature=2.0)))
    loaded = load(model.dir, "cpu")
    sampling = SHORT.replace(temperature=2.0, seed=row["generated"]["seed"])
    done = complete(loaded, prompt_ids(loaded.tokenizer, "the small boat", raw=True), sampling=sampling)
    assert done.text == row["generated"]["text"]


def test_a_row_has_settings_of_its_own(ask: Ask):
    rows = [
        question("river", sampling={"max_tokens": 2}),
        question("river", sampling={"temperature": 0}),
        question("river", sampling={"temperature": 0, "seed": 9}),
        question("river", sampling={"max_tokens": 0}),
        question("river", sampling={"heat": 1}),
        question("river", sampling=[1]),
    ]
    artifact = ask(rows)
    short, greedy, seeded = (row["generated"] for row in answers(artifact))
    assert short["completion_tokens"] <= 2 < greedy["completion_tokens"]
    assert greedy["text"] == seeded["text"] and seeded["seed"] == 9
    dropped = [(row.line, row.reason, row.detail) for row in read_dropped(artifact.dir / "dropped.jsonl")]
    assert [row[:2] for row in dropped] == [(4, "bad_sampling"), (5, "bad_sampling"), (6, "wrong_type")]
    assert "`max_tokens`" in dropped[0][2] and "`heat`" in dropped[1][2]


def test_a_row_that_cannot_be_asked_is_kept_aside_with_its_place(ask: Ask):
    """One bad line in a million must not cost the others."""
    good = question("bread")
    bad: dict[Any, str] = {
        "{broken": "bad_json",
        "[1]": "not_object",
        '{"text": "x"}': "missing_field",
        '{"prompt": " "}': "empty_text",
        '{"prompt": ["x"]}': "wrong_type",
        '{"question": 5}': "wrong_type",
        '{"messages": []}': "empty_text",
        '{"messages": [{"role": "robot", "content": "x"}]}': "bad_role",
        '{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}': "bad_turn_order",
        '{"conversations": [{"role": "assistant", "content": "y"}]}': "bad_turn_order",
        '{"conversations": "x"}': "wrong_type",
        '{"prompt": "\\ud800"}': "lone_surrogate",
        json.dumps({"prompt": "word " * 600}): "too_long",
    }
    artifact = ask([good, "", *bad, good])
    assert [row["generated"]["line"] for row in answers(artifact)] == [1, len(bad) + 3]
    dropped = list(read_dropped(artifact.dir / "dropped.jsonl"))
    assert [(row.line, row.reason) for row in dropped] == list(enumerate(bad.values(), 3))
    assert [row.text for row in dropped] == [str(line) for line in bad]
    assert {row.file for row in dropped} == {"questions.jsonl"}
    assert dropped[-1].detail.endswith("and the model's context of 512 has no room for an answer")
    figures, warnings = artifact.summary().figures, artifact.summary().warnings
    assert (figures["rows"], figures["answered"], figures["dropped"]) == (len(bad) + 2, 2, len(bad))
    assert f"{len(bad)} of {len(bad) + 2} rows cannot be asked" in warnings[0] and "line 3" in warnings[0]


def test_of_a_chat_row_the_last_question_is_answered_anew(ask: Ask):
    """The rows a model learnt from are the questions one wants to see answered by it."""
    asked = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": "two"},
    ]
    old = {"role": "assistant", "content": "gold"}
    first, second = answers(
        ask(
            [{"conversations": [*asked, old]}, {"conversations": asked}], sampling=Sampling(temperature=0, max_tokens=5)
        )
    )
    assert first["conversations"][:-1] == second["conversations"][:-1] == asked
    assert first["conversations"][-1] == {"role": "assistant", "content": first["generated"]["text"]}
    assert first["generated"]["text"] == second["generated"]["text"]


@pytest.mark.parametrize("packed", [".gz", ".zst", ""])
def test_packed_files_and_folders_are_read(ask: Ask, tmp_path: Path, packed: str):
    plain = write(tmp_path / "in" / "a.jsonl", [question("one"), question("two")])
    pack = {".gz": gzip.compress, ".zst": zstandard.compress, "": bytes}[packed]
    expected = answers(ask(plain))
    if packed:
        (tmp_path / "in" / f"a.jsonl{packed}").write_bytes(pack(plain.read_bytes().removesuffix(b"\n")))
        plain.unlink()
    write(tmp_path / "in" / "b.jsonl", [question("three")])
    *made, last = answers(ask(tmp_path / "in"))
    assert [row["messages"] for row in made] == [row["messages"] for row in expected]
    assert (last["generated"]["file"], last["generated"]["line"]) == ("b.jsonl", 1)


def test_the_answers_are_rows_to_learn_from(ask: Ask):
    """Whatever the model says, with calls and thoughts: what comes out goes in again."""
    rows = [question(f"water {n}") for n in range(10)]
    chats = [{"conversations": row["messages"]} for row in rows]
    sampling = Sampling(temperature=5.0, top_p=1.0, max_tokens=8)
    said = 0
    for kind, asked in (("messages", rows), ("minimind", chats)):
        for row in answers(ask(asked, sampling=sampling)):
            if row["generated"]["text"].strip() or row["generated"]["tool_calls"]:
                check_row("chat", convert(kind, "chat", row))  # type: ignore[arg-type]
                said += 1
    assert said > 15


def test_thoughts_and_calls_come_apart_from_the_answer(tokenizer):
    """What a client must take apart by hand is taken apart wrongly."""
    from minimind.infer.batch_rows import answered_row, question_of
    from minimind.infer.generate import Completion

    def row_of(key: str, *parts: int | str) -> dict[str, Any]:
        ids = [t for part in parts for t in ([part] if isinstance(part, int) else tokenizer.encode(part))]
        asked = question_of({key: [{"role": "user", "content": "add"}]}, SHORT, number=1)
        return answered_row(
            asked, Completion("", len(ids), "stop", tuple(ids)), tokenizer, prompt_tokens=1, file="f", line=1
        )

    ids = {name: token for token, name in tokenizer.specials.named().items()}
    think, end_think, call, end_call = (ids[name] for name in ("<think>", "</think>", "<tool_call>", "</tool_call>"))
    wanted = {"name": "add", "arguments": {"a": 1}}
    written = (think, "\nlet me see\n", end_think, "\n\nOne moment.", call, f"\n{json.dumps(wanted)}\n", end_call)
    row = row_of("messages", *written)
    assert row["generated"]["reasoning"] == "let me see"
    assert row["generated"]["text"].strip() == "One moment."
    assert row["generated"]["tool_calls"] == [wanted]
    (called,) = row["messages"][-1]["tool_calls"]
    assert json.loads(called["function"]["arguments"]) == {"a": 1} and row["messages"][-1]["reasoning_content"]
    assert row_of("conversations", *written)["conversations"][-1]["tool_calls"] == [wanted]
    broken = row_of("messages", call, '{"name": "add", "argu', end_call)
    assert broken["generated"]["tool_calls"] == [] and '"argu' in broken["generated"]["text"]


def many_rows() -> list[Any]:
    return [question(f"garden {n}", id=n) if n % 9 else "{bad" for n in range(1, 75)]


@pytest.mark.slow
def test_the_number_of_workers_changes_no_byte(ask: Ask, tmp_path: Path):
    """Real processes, three pieces."""
    asked = write(tmp_path / "q" / "questions.jsonl", many_rows())
    alone, together = ask(asked, workers=1), ask(asked, workers=2)
    assert content(alone) == content(together) and len(answers(alone)) == 66


def test_pieces_and_shards_change_no_byte(ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """How the work is cut is for the machine: the same lines in the same order."""
    asked = write(tmp_path / "q" / "questions.jsonl", many_rows())
    alone = ask(asked, workers=1)
    monkeypatch.setattr(batch, "CPU_PIECE_ROWS", 5)
    monkeypatch.setattr(batch, "SHARD_BYTES", 4000)
    cut = ask(asked, workers=1)
    names = sorted(path.name for path in cut.dir.glob("answers-*.jsonl"))
    assert len(names) > 3 and names[0] == "answers-00000.jsonl"
    assert b"".join((cut.dir / name).read_bytes() for name in names) == (alone.dir / "answers-00000.jsonl").read_bytes()
    monkeypatch.setattr(batch, "SHARD_BYTES", 64 << 20)
    assert content(ask(asked, workers=1)) == content(alone)
    copy_answers(cut.dir, tmp_path / "copy.jsonl")
    assert (tmp_path / "copy.jsonl").read_bytes() == (alone.dir / "answers-00000.jsonl").read_bytes()
    assert not list(tmp_path.glob(".copy*"))


def test_what_was_answered_is_answered_once(ask: Ask, tmp_path: Path):
    """The same question to the same model is an artifact that is there; another setting is another one."""
    rows, home = [question("light")], tmp_path / "home"
    asked = write(tmp_path / "q" / "questions.jsonl", rows)
    first = ask(asked, home=home)
    moved = shutil.copytree(asked.parent, tmp_path / "moved") / "questions.jsonl"
    assert ask(moved, home=home, workers=2, max_batch=1).manifest.created_at == first.manifest.created_at
    assert ask(moved, home=home, sampling=SHORT.replace(seed=4)).fingerprint != first.fingerprint
    write(moved, [question("lights")])
    assert ask(moved, home=home).fingerprint != first.fingerprint


def test_a_failure_on_the_way_keeps_what_was_answered(ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Answers are dear: a disk that fills up while they are joined must not cost one of them."""
    monkeypatch.setattr(batch, "CPU_PIECE_ROWS", 4)
    rows, home = [question(f"paper {n}") for n in range(12)], tmp_path / "home"
    asked = write(tmp_path / "q" / "questions.jsonl", rows)
    expected = content(ask(asked, workers=1))

    def fail(*_: Any) -> None:
        raise OSError("no space left on device")

    for failing in ("join_files", "summary"):  # before the answers are on the disk, and when the pieces are gone
        with monkeypatch.context() as patch:
            patch.setattr(batch, failing, fail)
            if failing == "summary":
                patch.setattr(batch, "answer_piece", fail)
            with pytest.raises(OSError, match="no space"):
                ask(asked, home=home, workers=1)
    monkeypatch.setattr(batch, "answer_piece", fail)
    assert content(ask(asked, home=home, workers=1)) == expected


def test_the_answers_lead_back_to_their_model_and_their_input(ask: Ask, model: Artifact, tmp_path: Path):
    home = tmp_path / "home"
    shutil.copytree(model.dir, home / "artifacts" / "sft" / model.fingerprint)
    artifact = ask([question("number")], home=home)
    assert artifact.manifest.parents == {"model": model.fingerprint}
    assert list(artifact.manifest.parts.sources) == ["input/questions.jsonl"]
    assert {node.kind for node in lineage_of(artifact).nodes} == {"generate", "sft"}
    events = read_events(artifact.dir / EVENTS_FILE)
    assert [(event.kind, event.step, event.total) for event in events][-1] == ("progress", 1, 1)


def test_an_input_without_a_question_is_an_error(ask: Ask, tmp_path: Path):
    with pytest.raises(DataError, match="is empty"):
        ask([])
    with pytest.raises(DataError, match=r"1 of 1 rows cannot be asked; most often missing_field \(1\), the first is "):
        ask([{"text": "x"}])
    with pytest.raises(DataError, match="it has blank lines only"):
        ask(["", " "])
    with pytest.raises(MissingError, match="no such file"):
        ask(tmp_path / "nothing.jsonl")
    with pytest.raises(ConfigError, match="temperature"):
        GenerateConfig.parse({"input": "x", "sampling": {"temperature": -1}}, origin="-p")


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from minimind.artifact import Store, open_artifact
from minimind.infer import batch
from minimind.infer.sampling import Sampling
from minimind.stage import build
if __name__ == "__main__":
    batch.CPU_PIECE_ROWS = 8
    config = batch.GenerateConfig(input={asked!r}, sampling=Sampling(max_tokens=40, seed=3), device="cpu", workers=2)
    build(batch.GENERATE, config, {{"model": open_artifact(Path({model!r}))}}, store=Store(Path({home!r})))
"""


@pytest.mark.slow
def test_kills_cost_the_pieces_under_way_and_no_byte(model: Artifact, tmp_path: Path):
    """kill -9 again and again, at any time: every start goes on, and the end is that of an undisturbed run."""
    rows = [question(f"window {n}") for n in range(160)]
    asked = write(tmp_path / "q" / "questions.jsonl", rows)

    def start(home: Path) -> subprocess.Popen[bytes]:
        script = tmp_path / f"{home.name}.py"
        places = {"asked": str(asked), "model": str(model.dir), "home": str(home)}
        script.write_text(KILLED.format(tests=str(Path(__file__).parent), **places))
        return subprocess.Popen([sys.executable, script], env=os.environ | {"OMP_NUM_THREADS": "1"})

    def finished(home: Path) -> int:
        return len(list(home.glob("artifacts/generate/.*.scratch/pieces/*.sums")))

    undisturbed, home = tmp_path / "undisturbed", tmp_path / "killed"
    assert start(undisturbed).wait(300) == 0
    kills = 0
    while True:
        process, before, deadline = start(home), finished(home), time.monotonic() + 300
        while process.poll() is None and finished(home) < before + 3 and time.monotonic() < deadline:
            time.sleep(0.02)
        if process.poll() is not None:
            assert process.returncode == 0
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
        assert finished(home) >= before + 3
    ends = [next(iter(Store(place).all())) for place in (undisturbed, home)]
    assert kills >= 3 and content(ends[0]) == content(ends[1]) and len(answers(ends[1])) == 160
