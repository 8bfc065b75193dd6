"""The fault matrix, data: a file that changes while it is read, a source that breaks off.

What was read of a file that is not what it was is thrown away; what was read of one that broke off is gone on with.
"""

import itertools
import shutil
import signal
from collections.abc import Iterator

import pytest
from faulted import (
    END_SECONDS,
    Ended,
    Sandbox,
    Whole,
    assert_contained,
    assert_recovers,
    stopped,
    whole,  # noqa: F401  a fixture
)
from web_site import Site

pytestmark = pytest.mark.chaos
REFUSED = 2


@pytest.mark.parametrize("how", ["appended to", "replaced by another", "taken away"])
def test_a_data_file_that_changes_while_it_is_read(how: str, whole: Whole):  # noqa: F811
    """Half of one version and half of another are no data that ever was. What it was before is read again."""
    sandbox = whole.sandbox()
    sandbox.forget("ingest-pretrain")
    path = sandbox.data / "text.jsonl"
    before = path.read_bytes()
    running = sandbox.start(*sandbox.pipeline_words(), MINIMIND_FAILPOINTS="piece.rename=stop")
    process = stopped(sandbox)
    if how == "appended to":
        path.write_bytes(before + b'{"text": "One more."}\n')
    elif how == "replaced by another":
        other = path.with_name("other")
        other.write_bytes(before.replace(b"Document 1", b"Document 2"))
        other.replace(path)
    else:
        path.unlink()
    process.send_signal(signal.SIGCONT)
    output = running.communicate(timeout=END_SECONDS)[0]
    assert_contained(sandbox, Ended(running.returncode, output, 0), code=REFUSED, words="text.jsonl")
    assert "Traceback" not in output
    assert not [one for one in sandbox.store.all() if one.label == "ingest-pretrain"]
    path.write_bytes(before)
    assert_recovers(sandbox, whole)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Site() as site:
        yield site


@pytest.fixture(scope="module")
def far(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """A pipeline whose texts come from a web server."""
    directory = tmp_path_factory.mktemp("far")
    sandbox = Sandbox(directory / "here")
    site.data = (sandbox.data / "text.jsonl").read_bytes()
    spec = sandbox.data / "spec.toml"
    spec.write_text(spec.read_text().replace('"text.jsonl"', f'"{site.url}"'))
    done = sandbox.pipeline()
    assert done.code == 0, done.output
    shutil.copytree(sandbox.root, directory / "whole", symlinks=True)
    return Whole(directory / "whole", sandbox.root, sandbox.digests())


def test_a_source_that_breaks_off_now_and_then_is_gone_on_with(site: Site, far: Whole):
    """Hours of a download are not begun again for a second without network."""
    sandbox = far.sandbox()
    sandbox.forget("ingest-pretrain")
    site.cuts = iter([20_000, 1, 5_000])
    assert_recovers(sandbox, far)
    assert next(site.cuts, None) is None  # all of it happened


def test_a_source_that_breaks_off_for_good_is_one_clear_error(site: Site, far: Whole):
    """It names the address, and nothing is made of the half that came."""
    sandbox = far.sandbox()
    sandbox.forget("ingest-pretrain")
    site.cuts, site.ranges = itertools.repeat(20_000), False
    try:
        ended = sandbox.pipeline()
    finally:
        site.cuts, site.ranges = iter(()), True
    assert_contained(sandbox, ended, code=REFUSED, words=site.url)
    assert "check the address and the network" in " ".join(ended.output.split())
    assert "Traceback" not in ended.output
    assert_recovers(sandbox, far)
