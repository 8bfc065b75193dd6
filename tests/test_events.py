"""The event stream: whole lines, exact offsets, a resume that leaves no trace."""

import math

from minimind.events import EventWriter, read_events


def test_what_is_written_is_read_in_order_and_offsets_continue(tmp_path):
    path = tmp_path / "events.jsonl"
    with EventWriter(path) as writer:
        writer.step(1, 10, {"loss": 2.5})
        first, offset = read_events(path)
        writer.log("careful", "warning")
        second, _ = read_events(path, offset)
    assert [(e.kind, e.step, e.metrics) for e in first] == [("step", 1, {"loss": 2.5})]
    assert [(e.kind, e.level, e.message) for e in second] == [("log", "warning", "careful")]


def test_half_a_line_is_left_for_the_next_reading(tmp_path):
    """The reader follows a file that another process is in the middle of writing."""
    path = tmp_path / "events.jsonl"
    with EventWriter(path) as writer:
        writer.step(1, 2, {"loss": 1.0})
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:20])
    events, offset = read_events(path)
    assert (len(events), offset) == (1, len(whole))
    path.write_bytes(whole + whole)
    assert len(read_events(path, offset)[0]) == 1


def test_a_resume_cuts_the_file_back_to_its_checkpoint(tmp_path):
    path = tmp_path / "events.jsonl"
    with EventWriter(path) as writer:
        writer.step(1, 3, {"loss": 3.0})
        checkpoint = writer.offset()
        writer.step(2, 3, {"loss": 2.0})
    with EventWriter(path, keep_bytes=checkpoint) as writer:
        writer.step(2, 3, {"loss": 2.0})
        writer.step(3, 3, {"loss": 1.0})
    assert [event.step for event in read_events(path)[0]] == [1, 2, 3]


def test_a_loss_that_is_not_a_number_is_null_and_no_broken_json(tmp_path):
    path = tmp_path / "events.jsonl"
    with EventWriter(path) as writer:
        writer.step(1, 1, {"loss": math.nan, "lr": 0.1})
    assert read_events(path)[0][0].metrics == {"loss": None, "lr": 0.1}


def test_a_file_that_is_not_there_yet_has_no_events(tmp_path):
    assert read_events(tmp_path / "none.jsonl") == ([], 0)


def test_progress_is_thinned_but_its_last_line_always_comes(tmp_path):
    path = tmp_path / "events.jsonl"
    with EventWriter(path) as writer:
        assert list(writer.track(iter(range(1000)), 1000, "rows")) == list(range(1000))
    events = read_events(path)[0]
    assert len(events) < 100
    assert (events[-1].step, events[-1].total, events[-1].message) == (1000, 1000, "rows")
