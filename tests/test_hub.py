"""Hub data sets by name: from a folder, and from a server that speaks the hub's protocol."""

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pytest
from pyarrow import parquet

from minimind.data.reading.files import open_raw
from minimind.data.reading.hub import hub_address, hub_files, hub_rows
from minimind.data.spec import load_spec
from minimind.errors import ConfigError, MissingError
from minimind.runtime import CHECKOUT

ODD = b'{"text": "a"}\n{"text": 3, "more": [1]}\r\n\xff\xfe\n{"text": "b\xe2\x80\xa8c"}\r{"text": "d"}\n\n{"text": "z"}'
"""Each of these rows breaks a reader that guesses: a number, bytes that are no UTF-8, a lone carriage return."""
COMMIT = "0123456789abcdef0123456789abcdef01234567"
SERVED = {
    "README.md": b"# A set\n",
    "data/train-0.jsonl": ODD,
    "data/train-1.jsonl": b'{"text": "e"}\n',
    "x.csv": b"a\n1\n",
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets` keeps lock files of everything it looked at."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def folder(tmp_path: Path, files: dict[str, bytes]) -> str:
    for name, content in files.items():
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return str(tmp_path / "set")


def contents(files: dict[str, str]) -> dict[str, bytes]:
    result = {}
    for name, location in files.items():
        with open_raw(location, name) as file:
            result[name] = file.read()
    return result


def test_the_files_of_a_split_come_byte_for_byte(tmp_path: Path):
    """The set's own layout says what belongs to a split; nothing of it is parsed on the way."""
    place = folder(tmp_path, {"data/train.jsonl": ODD, "data/test.jsonl": b'{"text": "t"}\n'})
    kind, files = hub_files(place)
    assert kind == "jsonl" and contents(files) == {"data/train.jsonl": ODD}
    kind, files = hub_files(place, split="test")
    assert kind == "jsonl" and list(files) == ["data/test.jsonl"]


def test_one_file_can_be_named(tmp_path: Path):
    """Or several with a pattern; the split does not matter then."""
    place = folder(tmp_path, {"a.jsonl": ODD, "b.jsonl": b"{}\n", "c.txt": b"words"})
    assert list(hub_files(place, file="*.jsonl").places) == ["a.jsonl", "b.jsonl"]
    kind, files = hub_files(place, file="c.txt")
    assert kind == "text" and contents(files) == {"c.txt": b"words"}


def test_parquet_sets_are_read_as_parquet(tmp_path: Path):
    """Most sets of the hub are Parquet; their files go to the reader of Parquet files."""
    place = folder(tmp_path, {"README.md": b"# A set\n"})
    parquet.write_table(pa.table({"text": ["x", "y"]}), Path(place) / "train.parquet")
    kind, files = hub_files(place)
    assert kind == "parquet"
    assert parquet.read_table(files["train.parquet"]).to_pylist() == [{"text": "x"}, {"text": "y"}]


def test_files_called_json_are_looked_into(tmp_path: Path):
    """Most have an object a line, which we read and judge; one big array is left to `datasets`."""
    place = folder(tmp_path / "lines", {"train.json": b' {"text": "a"}\n{"text": "b"}\n'})
    assert hub_files(place) == ("jsonl", {"train.json": str(Path(place) / "train.json")})
    place = folder(tmp_path / "array", {"train.json": b'[{"text": "a"}, {"text": "b"}]'})
    assert hub_files(place).kind is None
    assert [row["text"] for row in hub_rows(place)] == ["a", "b"]


def test_other_formats_come_as_rows(tmp_path: Path):
    """What we have no reader for is still a data set by name."""
    place = folder(tmp_path, {"train.csv": "text,score\nhello,1\n你好,2\n".encode()})
    assert hub_files(place).kind is None
    assert list(hub_rows(place)) == [{"text": "hello", "score": 1}, {"text": "你好", "score": 2}]


def test_wrong_splits_and_empty_sets_are_explained(tmp_path: Path):
    """The names of the splits are what the user lacks."""
    place = folder(tmp_path, {"train.jsonl": ODD, "test.jsonl": ODD})
    with pytest.raises(ConfigError, match=r"no split `val`; it has: train, test"):
        hub_files(place, split="val")
    with pytest.raises(MissingError, match="gone.jsonl: no such file"):
        hub_files(place, file="gone.jsonl")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingError, match="not found, or private .*check the name, the revision and the network"):
        hub_files(str(tmp_path / "empty"))


def test_a_revision_is_part_of_the_address():
    """A branch whose name has a slash must not become a folder."""
    assert hub_address("me/set", "a.jsonl") == "hf://datasets/me/set@main/a.jsonl"
    assert hub_address("me/set", "a.jsonl", revision="refs/pr/1") == "hf://datasets/me/set@refs%2Fpr%2F1/a.jsonl"


def test_the_shipped_spec_names_upstreams_files():
    """Names and kinds of the published mini mix; a spec that asks for another file fails only after a download."""
    spec = load_spec("minimind")
    assert {(source.file, source.rows) for source in spec.source} == {
        ("pretrain_t2t_mini.jsonl", "pretrain"),
        ("sft_t2t_mini.jsonl", "chat"),
        ("dpo.jsonl", "preference"),
    }
    assert {(source.kind, source.dataset, source.revision) for source in spec.source} == {
        ("hub", "jingyaogong/minimind_dataset", "main")
    }
    addresses = {hub_address(str(s.dataset), str(s.file), revision=s.revision) for s in spec.source}
    assert "hf://datasets/jingyaogong/minimind_dataset@main/dpo.jsonl" in addresses


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's protocol as its client uses to find and read files: one set, `me/set`, of `SERVED`."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if re.fullmatch(rf"/api/datasets/me/set(/revision/(main|{COMMIT}))?", path):
            return self.say(json.dumps({"id": "me/set", "sha": COMMIT, "siblings": [], "tags": []}).encode())
        if found := re.fullmatch(rf"/api/datasets/me/set/tree/(?:main|{COMMIT})/?(.*)", path):
            return self.say(json.dumps(self.listing(found[1], "recursive=true" in self.path)).encode())
        if found := re.fullmatch(rf"/datasets/me/set/resolve/(?:main|{COMMIT})/(.*)", path):
            return self.file(found[1])
        if path.startswith("/api/datasets/me/locked"):
            return self.say(b"{}", 401, {"X-Error-Code": "GatedRepo"})
        return self.say(b"{}", 404, {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET

    def listing(self, under: str, deep: bool) -> list[dict[str, Any]]:
        front = f"{under}/" if under else ""
        entries = {}
        for name, content in SERVED.items():
            rest = name.removeprefix(front)
            if not name.startswith(front) or (not deep and "/" in rest):
                folder = front + rest.split("/")[0]
                if name.startswith(front):
                    entries[folder] = {"type": "directory", "path": folder, "oid": "d" * 40}
                continue
            oid = hashlib.sha1(content, usedforsecurity=False).hexdigest()
            entries[name] = {"type": "file", "path": name, "size": len(content), "oid": oid}
        return list(entries.values())

    def file(self, name: str) -> None:
        if name not in SERVED:
            return self.say(b"", 404, {"X-Error-Code": "EntryNotFound"})
        content, headers = SERVED[name], {"X-Repo-Commit": COMMIT, "ETag": f'"{name}"', "Accept-Ranges": "bytes"}
        if not (wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))):
            return self.say(content, 200, headers)
        begin, end = int(wanted[1]), min(int(wanted[2] or len(content)), len(content) - 1)
        headers["Content-Range"] = f"bytes {begin}-{end}/{len(content)}"
        return self.say(content[begin : end + 1], 206, headers)

    def say(self, body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None: ...


ASK = """
import json, sys
from pathlib import Path
from minimind.artifact import Store
from minimind.data.reading.files import open_raw
from minimind.data.reading.hub import hub_files
from minimind.data.reading.locations import remote_digest, remote_size
from minimind.data.reading.ingest import INGEST
from minimind.data.reading.sources import IngestConfig, SourceConfig
from minimind.errors import MiniMindError
from minimind.stage import build

def ask(**question):
    try:
        kind, files = hub_files(**question)
        answer = {"kind": kind, "files": {}}
        for name, place in files.items():
            with open_raw(place, name) as file:
                content = file.read().decode("latin-1")
            answer["files"][name] = [place, content, remote_size(place), remote_digest(place)]
        return answer
    except MiniMindError as error:
        return {"error": f"{type(error).__name__}: {error}"}

def ingest(out_dir):
    source = SourceConfig(name="hub", kind="hub", rows="pretrain", dataset="me/set")
    config = IngestConfig(rows="pretrain", sources=(source,), workers=1, max_bad_fraction=1)
    artifact, _ = build(INGEST, config, {}, store=Store(Path(out_dir)))
    return {"kept": artifact.summary().figures["rows_kept"], "dropped": (artifact.dir / "dropped.jsonl").read_text()}

print(json.dumps([*(ask(**question) for question in json.loads(sys.argv[1])), ingest(sys.argv[2])]))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What a process answers that takes our server for the hub; the client reads the address when it is imported."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    questions = {
        "split": {"dataset": "me/set"},
        "file": {"dataset": "me/set", "file": "data/train-0.jsonl"},
        "pattern": {"dataset": "me/set", "file": "data/*.jsonl"},
        "commit": {"dataset": "me/set", "file": "data/train-0.jsonl", "revision": COMMIT},
        "no set": {"dataset": "me/gone"},
        "no file": {"dataset": "me/set", "file": "gone.jsonl"},
        "no revision": {"dataset": "me/set", "file": "data/train-0.jsonl", "revision": "v9"},
        "locked": {"dataset": "me/locked"},
    }
    home = str(tmp_path_factory.mktemp("hub"))
    settings = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": home, "no_proxy": "127.0.0.1"}
    arguments = [sys.executable, "-c", ASK, json.dumps(list(questions.values())), home]
    done = subprocess.run(arguments, env={**os.environ, **settings}, cwd=CHECKOUT, capture_output=True, timeout=60)
    server.shutdown()
    server.server_close()
    assert done.returncode == 0, done.stderr.decode()
    yield dict(zip([*questions, "ingest"], json.loads(done.stdout), strict=True))


def test_a_set_on_the_hub_is_found_by_name(answers: dict[str, Any]):
    """Its split, at the commit where the branch stands; what does not belong to it (the CSV) stays out."""
    found = answers["split"]
    assert found["kind"] == "jsonl" and list(found["files"]) == ["data/train-0.jsonl", "data/train-1.jsonl"]
    assert all(f"@{COMMIT}/" in place for place, *_ in found["files"].values())


def test_odd_rows_of_a_hub_file_spoil_no_others(answers: dict[str, Any]):
    """Every byte arrives as it is stored, so each line can be judged by itself."""
    for question in ("split", "file", "pattern", "commit"):
        files = {Path(name).name: entry for name, entry in answers[question]["files"].items()}
        _, content, size, _ = files["train-0.jsonl"]
        assert content.encode("latin-1") == ODD and size == len(ODD)


def test_rows_of_a_hub_set_are_judged_where_they_stand(answers: dict[str, Any]):
    """Through the whole stage: each bad line of the files on the server by its file and number."""
    found = answers["ingest"]
    records = [json.loads(line) for line in found["dropped"].split("\n") if line]
    assert found["kept"] == 3
    assert {record["file"] for record in records} == {"data/train-0.jsonl"}
    assert [(record["line"], record["reason"]) for record in records] == [
        (2, "wrong_type"),
        (3, "bad_utf8"),
        (4, "bad_json"),
    ]


def test_a_hub_file_counts_by_its_content(answers: dict[str, Any]):
    """The same bytes are the same corpus, whether a branch or its commit was named."""
    digests = {name: list(answers[name]["files"].values())[0][3] for name in ("split", "file", "commit")}
    assert len(set(digests.values())) == 1
    first, second = (entry[3] for entry in answers["split"]["files"].values())
    assert first != second


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ("no set", "MissingError: hub data set me/gone: not found, or private .*hf auth login"),
        ("no file", "MissingError: .*me/set@main/gone.jsonl: no such file"),
        ("no revision", "MissingError: .*me/set@v9/data/train-0.jsonl: no such file"),
        ("locked", "MissingError: hub data set me/locked: .*hf auth login"),
    ],
)
def test_what_the_hub_has_not_is_one_clear_line(answers: dict[str, Any], question: str, message: str):
    """Wrong names and missing logins are the rule, not the exception."""
    assert re.match(message, answers[question]["error"]) and "\n" not in answers[question]["error"]
