"""A corpus of bad input, kept as files: each has the end that `bad_input/expected.toml` says, and nothing else happens.

An end is one of three: `refused` in one line with these words, rows `kept` and `rejected` by reason, or `read` as is.
Whatever a file says of itself, no code of it runs, no file appears, memory is bounded, and no row is lost.
`bad_input/make.py` makes what no editor could write; `SPECIAL` below makes what git could not keep.
"""

import importlib.util
import json
import os
import tomllib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from conftest import Command

from minimind.artifact import Store, open_artifact, verify
from minimind.data.documents import RowKind
from minimind.data.forget_list import read_list
from minimind.data.reading import unpacking
from minimind.data.reading.sources import content_digests
from minimind.data.reading.validate import validate
from minimind.data.spec import clean_config, ingest_config, kinds, load_spec
from minimind.errors import ArtifactError, MiniMindError
from minimind.evaluate.results import read_evaluation
from minimind.evaluate.rows import read_choices
from minimind.export.foreign_config import own_config, read_config
from minimind.export.foreign_weights import read_tensors, weight_files
from minimind.export.importing import import_model
from minimind.model.config import ModelConfig
from minimind.model.lora import load_adapter
from minimind.model.transformer import Transformer
from minimind.model.weights import load_model
from minimind.recipe import load_recipe
from minimind.tokens.foreign_tokenizer import open_foreign
from minimind.tokens.token_set import TokenSet
from minimind.train.checkpoint import find_checkpoint

CORPUS = Path(__file__).parent / "bad_input"
EXPECTED: dict[str, dict[str, dict[str, Any]]] = tomllib.loads((CORPUS / "expected.toml").read_text(encoding="utf-8"))
OF_FILES = ("make.py", "expected.toml")
MOST_BYTES = 1_500_000
MOST_MEMORY = 512 << 20
"""More than any case may need beyond what the process has; the lies in them are of gigabytes and more."""
End = dict[str, Any]

ROW_KINDS: dict[str, RowKind] = {"chats": "chat", "preference": "preference", "prompt": "prompt"}
"""Folder → kind of its rows; those of the others are for pretraining."""
ROWS = ("jsonl", "json", "text", "gz", "zst", "archives", "parquet", "arrow", *ROW_KINDS)


def maker() -> ModuleType:
    """`bad_input/make.py`."""
    spec = importlib.util.spec_from_file_location("make_bad_input", CORPUS / "make.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cases(*folders: str) -> Any:
    """The cases in these folders."""
    found = [(folder, name) for folder in folders for name in EXPECTED[folder]]
    return pytest.mark.parametrize(("folder", "name"), found, ids=["/".join(case) for case in found])


@pytest.fixture
def ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`ends(read, path, expected)`: reading has that end, in bounded memory, and leaves nothing where it was called."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)

    def check(read: Callable[[Path], End], path: Path, expected: End) -> None:
        before = _peak()
        try:
            found = read(path)
        except MiniMindError as error:
            found = {"refused": str(error)}
        assert _peak() - before < MOST_MEMORY
        assert not list(here.iterdir())
        if "refused" not in expected or "refused" not in found:
            assert found == expected
            return
        said = found["refused"]
        assert [word for word in expected["refused"] if word not in said] == [], said
        named = (path.name, "source `web`", "list of rows to forget")  # the last two of what a data spec points to
        assert any(name in said for name in named) and "\n" not in said and len(said) < 1000, said

    return check


def _peak() -> int:
    """The most memory that was in use since the last call; 0 where the system does not count it."""
    try:
        found = [line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line]
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return 0
    return int(found[0]) << 10 if found else 0


def rows(kind: RowKind, out: Path) -> Callable[[Path], End]:
    """Validation: what is not kept is put aside with file, line, reason and the row itself."""

    def read(path: Path) -> End:
        done = validate([str(path)], kind, out, workers=1)
        kept = (out / "kept.jsonl").read_bytes().count(b"\n")
        dropped = [json.loads(line) for line in (out / "dropped.jsonl").read_text(encoding="utf-8").splitlines()]
        assert done.lines == done.kept + done.dropped == kept + len(dropped)
        assert Counter(row["reason"] for row in dropped) == done.reasons
        for row in dropped:
            assert row["file"] == str(path) and row["line"] > 0 and row["detail"] and "text" in row
        return {"kept": done.kept, "rejected": done.reasons}

    return read


@cases(*ROWS)
def test_rows(
    folder: str, name: str, tmp_path: Path, ends: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every row is kept or put aside with its reason, or the file as a whole is refused."""
    out = tmp_path / "out"
    if folder in ("parquet", "arrow"):  # rows of a table take seconds to come to what else counts as a bomb
        monkeypatch.setattr(unpacking, "BOMB_BYTES", 32 << 20)
    ends(rows(ROW_KINDS.get(folder, "pretrain"), out), CORPUS / folder / name, EXPECTED[folder][name])
    assert out.exists() == ("refused" not in EXPECTED[folder][name])


@cases("spec")
def test_data_specs(folder: str, name: str, ends: Callable[..., None]) -> None:
    """Settings, sources and what they point to, as the data stages would take them."""

    def read(path: Path) -> End:
        spec = load_spec(path)
        found = [content_digests(ingest_config(spec, kind)) for kind in kinds(spec)]
        for kind in kinds(spec):
            clean_config(spec, kind)
        return {"read": ", ".join(name for digests in found for name in digests)}

    ends(read, CORPUS / folder / name, EXPECTED[folder][name])


@cases("recipe")
def test_recipes(folder: str, name: str, ends: Callable[..., None]) -> None:
    """All settings of a pipeline."""

    def read(path: Path) -> End:
        return {"read": load_recipe(str(path)).name}

    ends(read, CORPUS / folder / name, EXPECTED[folder][name])


@cases("questions")
def test_questions(folder: str, name: str, ends: Callable[..., None]) -> None:
    """Of an evaluation every row counts, so that one bad line stops it."""
    ends(
        lambda path: {"read": len(read_choices(path, "choices").items)}, CORPUS / folder / name, EXPECTED[folder][name]
    )


@cases("forget")
def test_lists_of_rows_to_forget(folder: str, name: str, ends: Callable[..., None]) -> None:
    """A line that names no row must not pass for a row that was forgotten."""
    ends(lambda path: {"read": len(read_list(path).entries)}, CORPUS / folder / name, EXPECTED[folder][name])


@cases("tokenizer")
def test_tokenizers(folder: str, name: str, ends: Callable[..., None]) -> None:
    """tokenizer.model of sentencepiece and tokenizer.json of Hugging Face's."""
    ends(lambda path: {"read": open_foreign(str(path)).vocab_size}, CORPUS / folder / name, EXPECTED[folder][name])


@cases("tokens")
def test_token_sets(folder: str, name: str, ends: Callable[..., None]) -> None:
    """Sizes are compared before anything is mapped."""
    ends(lambda path: {"read": TokenSet.open(path).num_documents}, CORPUS / folder / name, EXPECTED[folder][name])


@cases("safetensors", "pickle")
def test_weights_of_others(folder: str, name: str, ends: Callable[..., None]) -> None:
    """Headers that lie allocate nothing, and a pickle's payload, which would leave a file, does not run."""

    def read(path: Path) -> End:
        tensors = read_tensors(weight_files(path))
        return {"read": {name: list(tensor.shape) for name, tensor in tensors.items()}}

    ends(read, CORPUS / folder / name, EXPECTED[folder][name])


@cases("hf_config")
def test_configs_of_others(folder: str, name: str, ends: Callable[..., None]) -> None:
    """A config.json of Hugging Face's as ours."""

    def read(path: Path) -> End:
        return {"read": own_config(read_config(path), qk_norm=False, where=str(path)).hidden_size}

    ends(read, CORPUS / folder / name, EXPECTED[folder][name])


@cases("hf")
def test_folders_of_others(folder: str, name: str, tmp_path: Path, ends: Callable[..., None]) -> None:
    """Importing a folder of Hugging Face's: what its index says, and its code, which is never run."""
    store = Store(tmp_path / "home")

    def read(path: Path) -> End:
        artifact, _ = import_model(path, tokenizer=CORPUS / "tokenizer" / "whole.json", store=store)
        return {"read": artifact.summary().figures["parameters"]}

    ends(read, CORPUS / folder / name, EXPECTED[folder][name])


@cases("model")
def test_model_directories(folder: str, name: str, ends: Callable[..., None]) -> None:
    """A model of ours: config.json and model.safetensors."""
    ends(lambda path: {"read": load_model(path).config.num_layers}, CORPUS / folder / name, EXPECTED[folder][name])


@cases("adapter")
def test_adapters(folder: str, name: str, ends: Callable[..., None]) -> None:
    """No matrix of an absurd rank is made before the file is known to hold one."""
    shape = {"hidden_size": 8, "num_layers": 1, "num_heads": 2, "head_size": 4, "ffn_size": 8, "qk_norm": False}
    model = Transformer(ModelConfig(vocab_size=4, **shape))

    def read(path: Path) -> End:
        load_adapter(path, model)
        return {"read": "an adapter"}

    ends(read, CORPUS / folder / name, EXPECTED[folder][name])


@cases("checkpoint")
def test_checkpoints(folder: str, name: str, ends: Callable[..., None]) -> None:
    """A damaged checkpoint is passed over, and it is said why."""

    def read(path: Path) -> End:
        found, passed_over = find_checkpoint(path, run="r")
        assert found is None
        raise ArtifactError(f"{path.name}: {'; '.join(passed_over)}")

    ends(read, CORPUS / folder / name, EXPECTED[folder][name])


@cases("artifact")
def test_artifacts(folder: str, name: str, ends: Callable[..., None]) -> None:
    """A manifest leads nowhere outside of its directory."""

    def read(path: Path) -> End:
        artifact = open_artifact(path)
        verify(artifact)
        return {"read": artifact.kind}

    ends(read, CORPUS / folder / name, EXPECTED[folder][name])


@cases("evaluation")
def test_evaluations(folder: str, name: str, ends: Callable[..., None]) -> None:
    """What a stage wrote as JSON is read as strictly as it was written."""
    ends(lambda path: {"read": len(read_evaluation(path).models)}, CORPUS / folder / name, EXPECTED[folder][name])


GOOD = b'{"text": "A boat sails over a quiet river."}\n'


def written(name: str | bytes, data: bytes = GOOD) -> Callable[[Path], Path]:
    """A file of that name."""

    def make(folder: Path) -> Path:
        path = folder / os.fsdecode(name)
        path.write_bytes(data)
        return path

    return make


def linked(name: str, target: str) -> Callable[[Path], Path]:
    """A symbolic link of that name."""

    def make(folder: Path) -> Path:
        (folder / name).symlink_to(target)
        return folder / name

    return make


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe.jsonl")
    return folder / "pipe.jsonl"


def named_as_a_file(folder: Path) -> Path:
    (folder / "folder.jsonl").mkdir()
    return folder / "folder.jsonl"


def full_of_links(folder: Path) -> Path:
    """A folder with one good file, and links that go round, nowhere, and to a device that never ends."""
    (folder / "good.jsonl").write_bytes(GOOD)
    for name, target in (("round", "."), ("nowhere.jsonl", "gone.jsonl"), ("zero.jsonl", "/dev/zero")):
        (folder / name).symlink_to(target)
    (folder / "loop.jsonl").symlink_to("loop.jsonl")
    os.mkfifo(folder / "pipe.jsonl")
    return folder


SPECIAL: dict[str, tuple[Callable[[Path], Path], End]] = {
    "line feed in the name": (written("two\nlines.jsonl"), {"kept": 1, "rejected": {}}),
    "emoji in the name": (written("🚢 boat é e\u0301.jsonl"), {"kept": 1, "rejected": {}}),
    "terminal's commands in the name": (written("\x1b[31mred\x07.jsonl"), {"kept": 1, "rejected": {}}),
    "quotes and blanks in the name": (written(' it\'s "one".jsonl'), {"kept": 1, "rejected": {}}),
    "stars in the name": (written("[a]*?.jsonl"), {"kept": 1, "rejected": {}}),
    "name that looks like an option": (written("--out=x.jsonl"), {"kept": 1, "rejected": {}}),
    "name of 250 letters": (written("a" * 244 + ".jsonl"), {"kept": 1, "rejected": {}}),
    "name that is not UTF-8": (written(b"\xff\xfe.jsonl"), {"refused": ["name is not UTF-8", "rename it"]}),
    "name too long": (lambda folder: folder / ("a" * 300), {"refused": ["cannot be read", "too long"]}),
    "nothing there": (lambda folder: folder / "gone.jsonl", {"refused": ["no such file"]}),
    "named pipe": (pipe, {"refused": ["is no regular file"]}),
    "device that never ends": (linked("zero.jsonl", "/dev/zero"), {"refused": ["is no regular file"]}),
    "link to itself": (linked("loop.jsonl", "loop.jsonl"), {"refused": ["no such file"]}),
    "link to nothing": (linked("gone.jsonl", "nowhere"), {"refused": ["no such file"]}),
    "folder named as a file": (named_as_a_file, {"refused": ["no data files in this directory"]}),
    "folder full of links": (full_of_links, {"kept": 1, "rejected": {}}),
}
"""What git could not keep: how it is made, and the end of it as rows for pretraining."""


@pytest.mark.parametrize("what", SPECIAL)
def test_odd_names_and_files_that_are_none(what: str, tmp_path: Path, ends: Callable[..., None]) -> None:
    """A name is only a name, and what is no file is not waited for."""
    make, expected = SPECIAL[what]
    place = tmp_path / "rows"
    place.mkdir()
    path = make(place)

    def read(path: Path) -> End:
        done = validate([str(path)], "pretrain", tmp_path / "out", workers=1)
        return {"kept": done.kept, "rejected": done.reasons}

    if expected.get("refused") == ["cannot be read", "too long"]:  # it is shown shortened
        with pytest.raises(MiniMindError, match="cannot be read .*too long"):
            read(path)
    elif expected.get("refused", [""])[0] == "name is not UTF-8":  # it is shown escaped
        with pytest.raises(MiniMindError, match="name is not UTF-8; rename it"):
            read(path)
    else:
        ends(read, path, expected)


def test_every_file_has_an_end_and_every_end_a_file() -> None:
    """A case that nobody reads would prove nothing."""
    there = [path.relative_to(CORPUS) for path in kept_files() if path.name not in OF_FILES]
    cases = {Path(*path.parts[:2]) for path in there}
    assert cases == {Path(folder, name) for folder, names in EXPECTED.items() for name in names}
    assert all(len(end) in (1, 2) and end.keys() <= {"refused", "kept", "rejected", "read"} for end in ends_of())


def kept_files() -> list[Path]:
    return [path for path in CORPUS.rglob("*") if path.is_file() and path.suffix != ".pyc"]


def ends_of() -> list[End]:
    return [end for names in EXPECTED.values() for end in names.values()]


def test_the_corpus_is_large_and_its_files_are_small() -> None:
    """At least a hundred cases, most of them refused, in what a checkout hardly notices."""
    assert len(ends_of()) >= 100
    assert all(end["refused"] for end in ends_of() if "refused" in end)
    assert sum(path.stat().st_size for path in kept_files()) < MOST_BYTES


def test_what_is_kept_is_what_is_made() -> None:
    """So a reader of `make.py` knows what is in the files, to the byte."""
    make = maker()
    same = {library for library, version in make.MADE_WITH.items() if make.INSTALLED[library] == version} | {""}
    made = {name: data for name, data, library in make.made() if library in same}
    assert made and [name for name, data in made.items() if (CORPUS / name).read_bytes() != data] == []


def test_a_payload_would_have_been_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pickles are real: a reader without care runs them, and the file that the other tests look for is there."""
    monkeypatch.chdir(tmp_path)
    torch.load(CORPUS / "pickle" / "runs_a_command_in_a_zip.pth", weights_only=False)
    assert (tmp_path / maker().CANARY).exists()


def test_a_shard_behind_a_link_to_a_device_is_not_read(tmp_path: Path, ends: Callable[..., None]) -> None:
    """Links are how Hugging Face's cache keeps its files, so they are followed; what never ends is no file."""
    path = tmp_path / "folder"
    path.mkdir()
    (path / "config.json").write_bytes((CORPUS / "hf" / "not_finite" / "config.json").read_bytes())
    (path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "a.safetensors"}}')
    (path / "a.safetensors").symlink_to("/dev/zero")

    def read(path: Path) -> End:
        import_model(path, tokenizer=CORPUS / "tokenizer" / "whole.json", store=Store(tmp_path / "home"))
        return {}

    ends(read, path, {"refused": ["a.safetensors: no such file"]})


def test_a_recipe_of_a_device_is_refused(tmp_path: Path, ends: Callable[..., None]) -> None:
    """It would be read until memory ends."""
    path = linked("zero.toml", "/dev/zero")(tmp_path)
    ends(lambda path: {"read": load_recipe(str(path)).name}, path, {"refused": ["is no regular file"]})


AS_TYPED = {
    "rows of UTF-16": (
        "data validate {corpus}/jsonl/utf16_with_mark.jsonl -k pretrain -o out",
        "is UTF-16; save it as",
    ),
    "a bomb": ("data validate {corpus}/zst/bomb.jsonl.zst -k pretrain -o out", "an archive bomb"),
    "a lying table": ("data validate {corpus}/arrow/rows_that_are_not_there.arrow -k pretrain -o out", "is damaged"),
    "a pickle": (
        "import {corpus}/pickle/runs_a_command.pth --tokenizer {corpus}/tokenizer/whole.json",
        "would run code when it is opened",
    ),
    "an index that goes above": (
        "import {corpus}/hf/index_goes_above --tokenizer {corpus}/tokenizer/whole.json",
        "shards are named as files of the same folder",
    ),
    "a recipe of absurd sizes": ("estimate -r {corpus}/recipe/absurd_sizes.toml", "`model`: num_layers"),
    "a recipe that is deep": ("estimate -r {corpus}/recipe/deep_inline.toml", "is nested too deep"),
}
"""What is typed, and what it says."""


@pytest.mark.parametrize("what", AS_TYPED)
def test_the_command_line_says_it_in_one_line(
    what: str, minimind: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 2, one line on stderr, no traceback, nothing written."""
    monkeypatch.setenv("MINIMIND_HOME", str(tmp_path / "home"))
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    typed, said = AS_TYPED[what]
    code, _, errors = minimind(*typed.format(corpus=CORPUS).split())
    assert code == 2 and errors.startswith("error: ") and errors.count("\n") == 1 and said in errors
    assert "Traceback" not in errors and not list(here.iterdir())


def test_a_name_gives_the_terminal_no_commands(minimind: Command, tmp_path: Path) -> None:
    """What others call their files is shown, and not done."""
    path = written("\x1b]0;evil\x07\x1b[31m.jsonl", b"")(tmp_path)
    code, _, errors = minimind("data", "validate", str(path), "-k", "pretrain", "-o", str(tmp_path / "out"))
    assert code == 2 and "\\x1b]0;evil\\x07" in errors and "is empty" in errors
    assert "\x1b" not in errors and "\x07" not in errors


def test_the_command_line_counts_what_it_rejects(minimind: Command, tmp_path: Path) -> None:
    """Bad rows among good ones are no failure: exit code 0, and each is in dropped.jsonl."""
    out = tmp_path / "out"
    file = CORPUS / "jsonl" / "wrong_types.jsonl"
    code, said, _ = minimind("data", "validate", str(file), "-k", "pretrain", "-o", str(out))
    assert code == 0 and "36 lines that are not blank = 20 kept + 16 dropped" in said
    assert len((out / "dropped.jsonl").read_text(encoding="utf-8").splitlines()) == 16
