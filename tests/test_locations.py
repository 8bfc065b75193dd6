"""Places that are not on this machine: every byte arrives, or an error says why not."""

import hashlib
import itertools
import threading
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from web_site import DATA, Site

from minimind.data.reading import remote
from minimind.data.reading.locations import find_remote, is_remote, open_remote, remote_digest, remote_size
from minimind.errors import ConfigError, MissingError, ServiceError

JSONL = (".jsonl", ".jsonl.gz")


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(remote, "WAIT_SECONDS", 0)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Site() as site:
        yield site


@pytest.fixture
def memory() -> Iterator[str]:
    """A folder of a file system that lists, with what a folder of data has in it."""
    files = fsspec.filesystem("memory")
    for name in ("b.jsonl", "a.jsonl", "deep/c.jsonl.gz", "notes.txt", ".hidden.jsonl", ".git/d.jsonl"):
        files.pipe(f"/shelf/{name}", name.encode())
    yield "memory://shelf"
    files.rm("/shelf", recursive=True)


def read(url: str) -> bytes:
    with open_remote(url) as file:
        return file.read()


def test_addresses_are_told_from_paths():
    """A Windows path and a name with a colon are files; everything with `scheme://` is fetched."""
    assert all(map(is_remote, ["http://h/a", "s3://b/k", "memory://x", "file:///x", "HTTPS://h", "zip://a::s3://b"]))
    assert not any(map(is_remote, ["a.jsonl", "/tmp/a", r"C:\data\a.jsonl", "a:b", "://x", "~/x"]))


def test_a_web_file_arrives_byte_for_byte(site: Site):
    """The plain case, in one request and with the length known beforehand."""
    assert read(site.url) == DATA
    assert site.asked == [("GET", "/set/part%201.jsonl", None)]
    assert remote_size(site.url) == len(DATA)


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("says_length", [True, False])
def test_broken_connections_are_taken_up_where_they_broke(site: Site, ranges: bool, says_length: bool):
    """Hours into a download a connection breaks: nothing may be lost, doubled or begun anew where ranges exist."""
    site.ranges, site.says_length, site.may_break = ranges, says_length, threading.Semaphore(0)
    site.cuts = iter([300_000, 100_000, 0] if ranges else [300_000, 400_000, 400_000])
    with open_remote(site.url) as file:
        parts = [file.read(300_000)]
        site.may_break.release()
        parts.append(file.read(100_000))
        site.may_break.release(2)
        assert b"".join([*parts, file.read()]) == DATA
    assert [wanted for _, _, wanted in site.asked] == [None, "bytes=300000-", "bytes=400000-", "bytes=400000-"]


def test_a_file_that_never_comes_whole_is_an_error(site: Site):
    """A cut-off file that passes for a whole one is the worst that can happen to a corpus."""
    site.ranges = False
    site.cuts = itertools.repeat(500_000)
    with pytest.raises(
        ServiceError,
        match=r"part%201\.jsonl: cannot be read after [0-9,]+ bytes .*500000 of 1000000.*check the address",
    ):
        read(site.url)


def test_lines_are_read_while_the_file_still_comes(site: Site):
    """Memory is bounded: what was read comes before the rest is fetched."""
    site.cuts, site.may_break = iter([500_000]), threading.Semaphore(0)
    with open_remote(site.url) as file:
        assert file.read(500_000) == DATA[:500_000]
        assert len(site.asked) == 1
        site.may_break.release()
        assert file.read() == DATA[500_000:]


def test_trouble_that_passes_is_waited_out(site: Site):
    """A server that restarts says 503 for a moment; a run of hours must not end by it."""
    site.statuses = iter([500, 503, 429])
    assert read(site.url) == DATA
    site.statuses = iter([500, 503, 500, 503])  # asked for the size with HEAD, then with GET
    assert remote_size(site.url) == len(DATA)


def test_trouble_that_stays_is_named(site: Site):
    """After a few tries the user must hear what the server says."""
    site.statuses = itertools.repeat(500)
    with pytest.raises(ServiceError, match="the server answers 500"):
        read(site.url)
    assert len(site.asked) == 1 + remote.RETRIES
    with pytest.raises(ServiceError, match="the server answers 500"):
        remote_size(site.url)


def test_what_does_not_pass_is_not_tried_again(site: Site):
    """404 and 403 are answers; asking again is only slow."""
    with pytest.raises(MissingError, match="gone.jsonl: no such file on the server; check the address"):
        read(site.url.replace("part%201", "gone"))
    assert len(site.asked) == 1
    site.statuses = itertools.repeat(403)
    with pytest.raises(ServiceError, match=r"access refused \(the server answers 403\); give an address"):
        remote_digest(site.url)


def test_no_network_is_one_clear_error(monkeypatch: pytest.MonkeyPatch):
    """Port 9 of this machine refuses, as a machine without network does."""
    monkeypatch.setattr(remote, "WAIT_SECONDS", 0)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(
        ServiceError, match=r"http://127.0.0.1:9/a.jsonl: cannot be read .*check the address and the net"
    ):
        read("http://127.0.0.1:9/a.jsonl")


def test_a_file_that_changes_while_it_is_read_is_an_error(site: Site):
    """The first half of one version and the second of another is no file that ever was."""
    site.headers = {"ETag": '"one"'}
    site.cuts, site.may_break = iter([300_000]), threading.Semaphore(0)
    with open_remote(site.url) as file, pytest.raises(ServiceError, match="changed on the server while it was read"):
        assert file.read(300_000) == DATA[:300_000]
        site.headers = {"ETag": '"two"'}
        site.may_break.release()
        file.read()


def test_secrets_stay_out_of_names_errors_and_logs(site: Site, caplog: pytest.LogCaptureFixture):
    """Addresses with a key in them are common; drop logs, reports and tracebacks are shown to others."""
    secret = site.url.replace("://", "://anna:hunter2@") + "?X-Signature=hunter2#hunter2"
    assert list(find_remote(secret, JSONL)) == ["part 1.jsonl"]
    assert find_remote(secret, JSONL)["part 1.jsonl"] == secret
    site.statuses = itertools.repeat(500)
    for ask in (read, remote_size, remote_digest):
        with pytest.raises(ServiceError) as caught:
            ask(secret)
        assert caught.value.__suppress_context__ or caught.value.__context__ is None
        assert "hunter2" not in str(caught.value)
    assert caplog.records and "hunter2" not in caplog.text
    site.statuses = iter(())
    assert remote_digest(secret) == remote_digest(site.url)
    for _, path, _ in site.asked:
        assert path in ("/set/part%201.jsonl?X-Signature=hunter2", "/set/part%201.jsonl")


@pytest.mark.parametrize(
    ("url", "seen"),
    [
        ("https://anna:p#a?ss@h:8080/a/b.jsonl?key=1#x", "https://h:8080/a/b.jsonl"),
        ("sftp://anna:pass@h/part-?.jsonl", "sftp://h/part-?.jsonl"),
        ("s3://bucket/a@b/c#1.jsonl", "s3://bucket/a@b/c#1.jsonl"),
        ("hf://datasets/me/set@main/a.jsonl", "hf://datasets/me/set@main/a.jsonl"),
    ],
)
def test_an_address_is_shown_without_its_secrets(url: str, seen: str):
    """And with everything else, so that the user finds the file by it."""
    assert remote.shown(url) == seen


@pytest.mark.parametrize("header", ["ETag", "Last-Modified"])
def test_the_servers_mark_is_the_digest(site: Site, header: str):
    """Ten gigabytes are not read to learn that they are the same as yesterday."""
    site.headers = {header: "Mon, 02 Nov 2026 10:00:00 GMT"}
    first = remote_digest(site.url)
    assert first == remote_digest(site.url) and len(first) == 64
    site.headers = {header: "Tue, 03 Nov 2026 10:00:00 GMT"}
    assert remote_digest(site.url) != first
    assert {method for method, _, _ in site.asked} == {"HEAD"}


def test_without_a_mark_the_bytes_are_the_digest(site: Site, tmp_path: Path):
    """Then it is the same as that of a local copy, so a downloaded file is not worked through again."""
    site.cuts = iter([300_000])
    assert remote_digest(site.url) == hashlib.sha256(DATA).hexdigest()
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(DATA)
    assert remote_digest(copy.as_uri()) == hashlib.sha256(DATA).hexdigest()


def test_folders_are_listed_by_name_where_they_can_be(memory: str):
    """The order of files is the order of rows; names do not change when the folder moves."""
    assert find_remote(memory, JSONL) == {
        "a.jsonl": "memory://shelf/a.jsonl",
        "b.jsonl": "memory://shelf/b.jsonl",
        "deep/c.jsonl.gz": "memory://shelf/deep/c.jsonl.gz",
    }
    assert list(find_remote(f"{memory}/", JSONL)) == list(find_remote(memory, JSONL))
    assert list(find_remote(f"{memory}/[ab].*", JSONL)) == ["a.jsonl", "b.jsonl"]
    assert list(find_remote(f"{memory}/**/*.gz", JSONL)) == ["deep/c.jsonl.gz"]
    assert find_remote(f"{memory}/notes.txt", JSONL) == {"notes.txt": "memory://shelf/notes.txt"}


def test_what_is_found_can_be_read(memory: str, tmp_path: Path):
    """Names come with addresses that open, on file systems with and without a host in them."""
    assert {name: read(url) for name, url in find_remote(memory, JSONL).items()} == {
        name: name.encode() for name in ("a.jsonl", "b.jsonl", "deep/c.jsonl.gz")
    }
    (tmp_path / "with space").mkdir()
    (tmp_path / "with space" / "a.jsonl").write_bytes(b"1\n")
    found = find_remote(f"file://{tmp_path}/with space", JSONL)
    assert {name: read(url) for name, url in found.items()} == {"a.jsonl": b"1\n"}
    assert remote_size(found["a.jsonl"]) == 2


def test_a_listing_is_not_remembered(memory: str):
    """A server that runs for weeks must see the file that came yesterday."""
    assert "new.jsonl" not in find_remote(memory, JSONL)
    fsspec.filesystem("memory").pipe("/shelf/new.jsonl", b"")
    assert "new.jsonl" in find_remote(memory, JSONL)


@pytest.mark.parametrize(
    ("url", "error", "message"),
    [
        ("memory://nowhere", MissingError, "memory://nowhere: no such file or folder"),
        ("memory://nowhere/*.jsonl", MissingError, "no file matches"),
        ("memory://shelf/.git", MissingError, r"no such file or folder|no \.jsonl or"),
        ("http://h/folder/", ConfigError, "folders cannot be listed on a web server; name each file"),
        ("https://h/part-*.jsonl", ConfigError, "patterns cannot be looked up on a web server"),
        ("s3://bucket/key", MissingError, "run `pip install s3fs`"),
        ("foo://bucket/key", ConfigError, "Protocol not known: foo"),
    ],
)
def test_what_cannot_be_found_says_what_to_do(url: str, error: type[Exception], message: str):
    """The first thing a user meets; no network is asked for any of it."""
    if url.startswith("s3") and "s3fs" in fsspec.available_protocols() and _has_s3fs():
        pytest.skip("s3fs is installed here")
    with pytest.raises(error, match=message):
        find_remote(url, JSONL)


def test_a_folder_is_no_file(memory: str):
    """Opened by mistake, a folder must not come out as an empty file."""
    with pytest.raises(MissingError, match="is a folder; name a file"):
        read(memory)
    with pytest.raises(MissingError, match="no such file on the server"):
        read(f"{memory}/gone.jsonl")


def _has_s3fs() -> bool:
    import importlib.util

    return importlib.util.find_spec("s3fs") is not None
