"""`minimind forget`: who saw a row is found against every batch, and what it plans to run again is what runs."""

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import conversations, documents, preferences
from history_parts import seal_training
from typer.testing import CliRunner

from minimind.artifact import Artifact, Inputs, Store, Summary
from minimind.cli import app
from minimind.config import Config
from minimind.data.cleaning import CLEAN
from minimind.data.documents import RowKind
from minimind.data.dropped import read_changes
from minimind.data.reading.ingest import INGEST
from minimind.data.sharding import SHARD
from minimind.data.shards import read_rows
from minimind.data.spec import clean_config, ingest_config, kinds, load_spec, shard_config
from minimind.errors import ConfigError, DataError, MissingError
from minimind.forget.reach import Reached
from minimind.forget.report import Forgetting, forget_rows, forget_sources
from minimind.housekeeping.pins import pin
from minimind.lineage import find_artifact
from minimind.model.config import ModelConfig
from minimind.stage import Stage, build
from minimind.tokens.token_set import TokenSet
from minimind.tokens.tokenizer import Tokenizer
from minimind.tokens.tokenizer_training import TOKENIZER, TokenizerConfig
from minimind.tokens.tokenizing import TOKENS, TokensConfig
from minimind.tokens.trace import trace_text
from minimind.train.history import training_of, trainings
from minimind.train.stage_configs import DpoConfig, PretrainConfig, SftConfig

MODEL = ModelConfig(vocab_size=620, hidden_size=32, num_layers=1, num_heads=2, max_positions=512)
SOURCES = {"text": "pretrain", "notes": "pretrain", "talk": "chat", "more": "chat", "pairs": "preference"}


class Published(Config):
    """Which model is handed out."""

    model: str = "dpo"


def publish(config: Published, _: Inputs, out_dir: Path) -> Summary:
    (out_dir / "model.safetensors").touch()
    return Summary(figures={"model": config.model})


@dataclass(frozen=True)
class Project:
    """A data spec, its files, and a store; `run` is the pipeline by real stages, its trainings without weights."""

    directory: Path

    @property
    def store(self) -> Store:
        return Store(self.directory / "home")

    def write_spec(self, *, forget: str | None = None, without: str | None = None) -> None:
        tables = [
            f'[[source]]\nname = "{name}"\nrows = "{rows}"\npath = "{name if name == "notes" else name + ".jsonl"}"\n'
            for name, rows in SOURCES.items()
            if name != without
        ]
        first = "validation_fraction = 0.2\n" + (f'forget = "{forget}"\n' if forget else "")
        (self.directory / "spec.toml").write_text(first + "".join(tables), encoding="utf-8")

    def run(self) -> list[str]:
        """Run what is not there yet; the labels of what was made."""
        before = {artifact.fingerprint for artifact in self.store.all()}
        spec, store = load_spec(self.directory / "spec.toml"), self.store
        made: dict[str, Artifact] = {}
        read: dict[str, Artifact] = {}
        for kind in kinds(spec):
            read[f"ingest_{kind}"], _ = build(INGEST, ingest_config(spec, kind), {}, store=store)
            clean, _ = build(CLEAN, clean_config(spec, kind), {"rows": read[f"ingest_{kind}"]}, store=store)
            made[kind], _ = build(SHARD, shard_config(spec, kind), {"rows": clean}, store=store)
        config = TokenizerConfig(vocab_size=620, character_coverage=0.99)
        tokenizer, _ = build(TOKENIZER, config, {"corpus": made["pretrain"]}, store=store)
        tokens = {
            kind: build(TOKENS, TokensConfig(rows=kind), {"corpus": made[kind], "tokenizer": tokenizer}, store=store)[0]
            for kind in kinds(spec)
        }
        base = seal_training(
            store, "pretrain", PretrainConfig(epochs=1, length=64, batch_tokens=512, model=MODEL),
            {"tokens": tokens["pretrain"], "tokenizer": tokenizer},
        )  # fmt: skip
        sft_config = SftConfig(epochs=0.4, length=512, batch_tokens=1024)  # so that it never gets to most rows
        sft = seal_training(store, "sft", sft_config, {"tokens": tokens["chat"], "model": base})
        models = {"pretrain": base, "sft": sft}
        if "preference" in tokens:
            dpo_config = DpoConfig(epochs=1, length=512, batch_tokens=4096)
            inputs = {"tokens": tokens["preference"], "model": sft}
            models["dpo"] = seal_training(store, "dpo", dpo_config, inputs)
        chosen = list(models)[-1]
        inputs = {**models, **read}  # as the real one, whose report tells of the rows that were read
        build(Stage("publish", publish, inputs=tuple(inputs)), Published(model=chosen), inputs, store=store)
        return [artifact.label for artifact in store.all() if artifact.fingerprint not in before]

    def list_of(self, *lines: object) -> Path:
        path = self.directory / "forget.jsonl"
        words = (line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines)
        path.write_text("".join(f"{line}\n" for line in words), encoding="utf-8")
        return path

    def forget(self, *lines: object, out: Path | None = None) -> Forgetting:
        return forget_rows(self.list_of(*lines), self.store, trainings(self.store), out=out)

    def newest(self, label: str) -> Artifact:
        return find_artifact(label, self.store)

    def rows(self, label: str, split: str) -> list[dict[str, Any]]:
        return list(read_rows(self.newest(label).dir / split))

    def all_rows(self, label: str) -> list[dict[str, Any]]:
        return [*self.rows(label, "train"), *self.rows(label, "val")]


def write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def shouted(row: dict[str, Any]) -> dict[str, Any]:
    """The same conversation for who looks for duplicates, with another id."""
    return {"conversations": [{**turn, "content": turn["content"].upper()} for turn in row["conversations"]]}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A pipeline that ran once. `more` has copies of two rows of `talk`, one of them in other letters."""
    directory = tmp_path_factory.mktemp("forget")
    texts = [{"text": text} for text in documents(90, seed=3)]
    write(directory / "text.jsonl", texts[:60])
    write(directory / "notes" / "a.jsonl", texts[60:80])
    write(directory / "notes" / "b.jsonl", texts[80:])
    chats = [row for row in conversations(120, seed=5) if len(row["conversations"]) < 5]
    write(directory / "talk.jsonl", chats[:25])
    write(directory / "more.jsonl", [shouted(chats[0]), *chats[25:], chats[1]])
    write(directory / "pairs.jsonl", preferences(30, seed=6))
    project = Project(directory)
    project.write_spec()
    project.run()
    return project


@pytest.fixture
def project(made: Project, tmp_path: Path) -> Project:
    """A copy of it, to go on with."""
    shutil.copytree(made.directory, tmp_path / "project")
    return Project(tmp_path / "project")


def found(forgetting: Forgetting, label: str) -> Reached:
    (one,) = [one for one in forgetting.reached if one.label == label]
    return one


def content(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("text", "conversations", "chosen", "rejected") if name in row}


def seen_row(project: Project) -> dict[str, Any]:
    """A conversation that the first step of `sft` had, and no other row is a copy of."""
    training = training_of(project.newest("sft"))
    numbers = TokenSet.open(training.tokens.dir / "train").rows[training.open().pieces(0).documents]
    rows = project.rows("corpus-chat", "train")
    return next(
        rows[number] for number in numbers if (rows[number]["source"], rows[number]["line"] > 2) == ("talk", True)
    )


def unseen_row(project: Project) -> dict[str, Any]:
    """A conversation for training that no step had."""
    training = training_of(project.newest("sft"))
    batches, rows = training.open(), TokenSet.open(training.tokens.dir / "train").rows
    seen = {int(rows[number]) for step in range(training.steps) for number in batches.pieces(step).documents}
    return next(row for number, row in enumerate(project.rows("corpus-chat", "train")) if number not in seen)


def texts_of(artifact: Artifact) -> str:
    """All text in an artifact, what is packed unpacked and what is encoded decoded."""
    texts = []
    for path in artifact.dir.rglob("*"):
        if path.suffix == ".arrow":
            continue
        if path.name.endswith(".zst"):
            texts += [json.dumps(row, ensure_ascii=False) for row in read_changes(path)]
        elif path.is_file():
            texts.append(path.read_bytes().decode("utf-8", "replace"))
    for directory in {path.parent for path in artifact.dir.rglob("*.arrow")}:
        texts += [json.dumps(row, ensure_ascii=False) for row in read_rows(directory)]
    if artifact.kind == "tokens":
        store = Store(artifact.dir.parents[2])
        tokenizer = Tokenizer.load(store.path("tokenizer", artifact.manifest.parents["tokenizer"]))
        texts += [tokenizer.decode(np.asarray(TokenSet.open(artifact.dir / side).tokens)) for side in ("train", "val")]
    return "\n".join(texts)


def named_by(how: str, row: dict[str, Any], kind: RowKind) -> object:
    name, _, file = row["source"].partition("/")
    ways = {
        "content": content(row),
        "id": {"id": row["id"], "rows": kind},
        "place": {"source": name, "line": row["line"]} | ({"file": file} if file else {}),
    }
    return ways[how]


@pytest.mark.parametrize("how", ["content", "id", "place"])
def test_a_forgotten_row_is_in_nothing_that_is_made_again(project: Project, how: str) -> None:
    """The plan is what then runs, no more and no less; and no new artifact has the text, in whatever form."""
    row = seen_row(project)
    answer = row["conversations"][-1]["content"]
    told = project.forget(named_by(how, row, "chat"))
    assert [one.id for one in told.rows if not one.is_copy] == [row["id"]]
    assert not any(label.endswith(("pretrain", "preference", "tokenizer")) for label in labels(told))
    assert {"clean-chat", "tokens-chat", "sft", "dpo", "publish"} <= set(labels(told))
    before = {artifact.fingerprint for artifact in project.store.all()}
    project.write_spec(forget="forget.jsonl")
    assert sorted(project.run()) == sorted(labels(told))
    assert not told.rerun.gone and set(told.rerun.stays).isdisjoint(labels(told))
    for artifact in project.store.all():
        said = answer in texts_of(artifact) or json.dumps(answer, ensure_ascii=False)[1:-1] in texts_of(artifact)
        is_of_chats = artifact.kind in ("ingest", "clean", "shard", "tokens") and artifact.label.endswith("-chat")
        assert said == (is_of_chats and artifact.fingerprint in before), artifact.label
    again = project.forget(named_by(how, row, "chat"))
    assert not again.rerun.again and {one.fingerprint for one in again.reached} <= before


def labels(told: Forgetting) -> list[str]:
    return [stage.label for stage in told.rerun.again]


def test_who_learnt_is_told_from_who_was_made_of_one(made: Project) -> None:
    """Against the steps that `trace` finds for the row's text; the tokenizer never saw a conversation."""
    row = seen_row(made)
    told = made.forget(content(row))
    sft = found(told, "sft")
    trace = trace_text(row["conversations"][-1]["content"], made.store, trainings(made.store))
    (seen,) = [
        seen.steps
        for one in trace.rows
        for document in one.documents
        for seen in document.trainings
        if (one.id, seen.fingerprint) == (row["id"], sft.fingerprint)
    ]
    assert (sft.how, sft.first_steps, sft.steps) == ("learnt", seen, len(seen))
    assert {one.label: one.how for one in told.reached if one.how != "holds"} == {
        "sft": "learnt",
        "dpo": "made_of",
        "publish": "made_of",
    }
    assert found(told, "publish").note.startswith("made of dpo")
    holding = {one.label: one.rows for one in told.reached if one.how == "holds"}
    assert holding["shard-chat"] == holding["tokens-chat"] == {"train": 1, "val": 0}
    assert set(holding) == {f"{stage}-chat" for stage in ("ingest", "clean", "shard", "tokens")}


def test_a_row_that_no_step_had_taught_nothing(made: Project) -> None:
    """Of less than an epoch most rows are never in a batch. Rows for validation are only measured on."""
    unseen = made.forget(content(unseen_row(made)))
    assert {one.label: one.how for one in unseen.reached if one.how != "holds"} == dict.fromkeys(
        ["sft", "dpo", "publish"], "derived"
    )
    validation = made.forget(content(made.rows("corpus-chat", "val")[0]))
    assert found(validation, "sft").how == "measured"
    assert [found(validation, "shard-chat").rows[side] for side in ("train", "val")] == [0, 1]


def test_a_text_of_the_base_model_runs_everything_again(project: Project) -> None:
    """The tokenizer learnt from it too, and all tokens are made by the tokenizer."""
    told = project.forget({"text": project.rows("corpus", "train")[0]["text"]})
    assert found(told, "tokenizer").how == found(told, "pretrain").how == "learnt"
    assert found(told, "sft").how == "made_of"
    stay = {"ingest-pretrain", *(f"{stage}-{kind}" for stage in ("ingest", "clean", "shard") for kind in CHATS)}
    assert set(told.rerun.stays) == stay
    project.write_spec(forget="forget.jsonl")
    assert sorted(project.run()) == sorted(labels(told))


CHATS = ("chat", "preference")


def test_a_copy_counts_as_the_row_itself(project: Project) -> None:
    """`more` begins with the first row of `talk`: naming the place of the copy forgets what was kept of the two."""
    told = project.forget({"source": "more", "line": 1})
    before = [(row["source"], row["line"]) for row in project.all_rows("corpus-chat")]
    assert ("talk", 1) in before and ("more", 1) not in before
    assert [(row.source, row.line, row.is_copy) for row in told.rows] == [("more", 1, False), ("talk", 1, True)]
    assert found(told, "shard-chat").rows["dropped"] == 1
    project.write_spec(forget="forget.jsonl")
    project.run()
    left = [(row["source"], row["line"]) for row in project.all_rows("corpus-chat")]
    assert left == [place for place in before if place != ("talk", 1)]


def test_a_source_is_forgotten_by_name_pattern_or_file(project: Project) -> None:
    told = {
        forget_sources([name], project.store, trainings(project.store)).model_dump_json()
        for name in ("more", "mor*", "more.jsonl", str(project.directory / "more.jsonl"))
    }
    assert len(told) == 1
    answer = Forgetting.model_validate_json(told.pop())
    assert answer.sources == ["more"] and answer.rows == []
    assert answer.rerun.edits == ['in the data spec, take out the [[source]] with name = "more"']
    assert {"ingest-chat", "sft"} <= set(labels(answer)) and not answer.rerun.gone
    of_more = [row for row in project.all_rows("corpus-chat") if row["source"] == "more"]
    counts = found(answer, "shard-chat").rows
    assert (counts["train"] + counts["val"], counts["dropped"]) == (len(of_more), 2)
    project.write_spec(without="more")
    assert sorted(project.run()) == sorted(labels(answer))
    assert {row["source"] for row in project.rows("corpus-chat", "train")} == {"talk"}


def test_without_a_source_its_copies_elsewhere_come_back(project: Project) -> None:
    """They are another source's own; who wants them gone too must name the rows."""
    answer = forget_sources(["talk"], project.store, trainings(project.store))
    assert "2 rows of other sources were dropped as copies" in answer.notes[0]
    project.write_spec(without="talk")
    project.run()
    assert 1 in [row["line"] for row in project.all_rows("corpus-chat")]


def test_a_file_of_a_folder_is_forgotten_alone(made: Project, tmp_path: Path) -> None:
    shutil.copy(made.directory / "notes" / "a.jsonl", tmp_path / "elsewhere.jsonl")
    answers = [
        forget_sources([name], made.store, trainings(made.store))
        for name in ("notes/a.jsonl", "a.jsonl", str(tmp_path / "elsewhere.jsonl"))
    ]
    assert answers[0] == answers[1] == answers[2]
    assert answers[0].sources == ["notes/a.jsonl"]
    assert answers[0].rerun.edits == ["move a.jsonl away from where the source notes reads"]
    rows = [row for row in made.all_rows("corpus") if row["source"] == "notes/a.jsonl"]
    assert sum(found(answers[0], "shard-pretrain").rows.values()) == len(rows) > 0


def test_the_only_source_of_a_kind_takes_its_models_with_it(project: Project) -> None:
    """Without pairs there is no preference model, and everything before it stays."""
    answer = forget_sources(["pairs"], project.store, trainings(project.store))
    assert answer.rerun.gone == [
        "ingest-preference",
        "clean-preference",
        "shard-preference",
        "tokens-preference",
        "dpo",
    ]
    assert labels(answer) == ["publish"]
    project.write_spec(without="pairs")
    assert project.run() == ["publish"]
    base = forget_sources(["text", "notes"], project.store, trainings(project.store))
    assert any("a model starts from text" in edit for edit in base.rerun.edits)


def test_what_cannot_be_told_is_said(project: Project) -> None:
    """A model whose rows are gone may have seen anything; one whose steps cannot be gone through is taken to have."""
    row = seen_row(project)
    unread = forget_rows(project.list_of(content(row)), project.store, [])
    assert found(unread, "sft").how == "learnt" and "cannot be gone through" in found(unread, "sft").note
    validation = project.list_of(content(project.rows("corpus-chat", "val")[0]))
    assert found(forget_rows(validation, project.store, []), "sft").how == "measured"
    shutil.rmtree(project.newest("tokens-chat").dir)
    told = project.forget(content(row))
    assert [line.split(":")[0] for line in told.untold] == [f"sft {project.newest('sft').fingerprint}"]


def test_pins_and_copies_of_the_rows_are_named(project: Project) -> None:
    """What would keep the old artifacts, or the text, is part of the answer."""
    sft = project.newest("sft")
    pin(sft, project.store)
    notes = "\n".join(project.forget(content(seen_row(project))).notes)
    assert f"minimind unpin {sft.fingerprint}" in notes
    assert "the sources still have the rows, and so has their copy ingest-chat" in notes
    assert "MLflow" in notes and "--out FILE" in notes


@pytest.fixture
def run(made: Project, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The command in the store of the pipeline that ran."""
    monkeypatch.setenv("MINIMIND_HOME", str(made.directory / "home"))
    return lambda *arguments: CliRunner().invoke(app, ["forget", *map(str, arguments)])


def test_the_command_tells_all_of_it_and_writes_a_list_without_texts(made: Project, run: Any, tmp_path: Path) -> None:
    """Ids alone on their lines are looked up; the list that comes out is one a data spec takes."""
    row = seen_row(made)
    ids, out = tmp_path / "ids.txt", tmp_path / "out.jsonl"
    ids.write_text(f"{row['id']}\n")
    alone = run("--rows", ids)
    assert alone.exit_code == 0 and "--out forget.jsonl" in alone.output
    done = run("--rows", ids, "--out", out)
    assert done.exit_code == 0, done.exception
    assert f'forget = "{out}"' in done.output and "minimind gc --yes" in done.output
    assert out.read_text() == json.dumps({"id": row["id"], "rows": "chat"}) + "\n"
    unknown = tmp_path / "unknown.jsonl"
    unknown.write_text(f'{{"text": "never read"}}\n\n{row["id"]}\n{{"source": "more", "line": 999}}\n')
    assert "in no artifact  line 1, 4 of the list" in run("--rows", unknown).output
    told = json.loads(run("--rows", out, "--json").output)
    assert told["registered"] == {} and told["rows"][0]["id"] == row["id"]
    assert run("--source", "more").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "lines", "error", "message"),
    [
        (["--source", "mroe"], [], MissingError, "no source or file `mroe`.*did you mean `more`"),
        (["--rows", "LIST"], [{"text": "never read"}], MissingError, "none of the 1 rows of .* is in an artifact"),
        (["--rows", "LIST"], [{"text": "x y"}, "{"], DataError, r"list\.jsonl:2: .*; name a row by its content"),
        (["--rows", "LIST"], [], DataError, r"list\.jsonl: names no row"),
        (["--rows", "gone.jsonl"], [], MissingError, "gone.jsonl: cannot be read"),
        ([], [], ConfigError, "give either --source NAME or --rows FILE"),
        (["--source", "more", "--out", "x"], [], ConfigError, "--out is for --rows"),
        (["--rows", "LIST", "--out", "no/where/x"], [], ConfigError, "there is no directory"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    run: Any, tmp_path: Path, arguments: list[str], lines: list[Any], error: type[Exception], message: str
) -> None:
    path = tmp_path / "list.jsonl"
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    done = run(*(str(path) if argument == "LIST" else argument for argument in arguments))
    assert isinstance(done.exception, error) and done.exception.exit_code == 2
    with pytest.raises(error, match=message):
        raise done.exception
