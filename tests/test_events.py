"""The event stream: whole lines, exact offsets, a resume that leaves no trace."""

import math

import pytest

from minimind.events import EventReader, EventWriter, read_events


def test_what_is_written_is_read_in_order_and_once(tmp_path):
    path = tmp_path / "events.jsonl"
    with EventWriter(path) as writer:
        writer.step(1, 10, {"loss": 2.5})
        reader = EventReader(path)
        first = reader.pending()
        reader.take()
        writer.log("careful", "warning")
        second = reader.pending()
    assert [(e.kind, e.step, e.metrics) for e in first] == [("step", 1, {"loss": 2.5})]
    assert [(e.kind, e.level, e.message) for e in second] == [("log", "warning", "careful")]


def test_half_a_line_is_left_for_the_next_reading(tmp_path):
    """The reader follows a file that another process is in the middle of writing."""
    path = tmp_path / "events.jsonl"
    with EventWriter(path) as writer:
        writer.step(1, 2, {"loss": 1.0})
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:20])
    reader = EventReader(path)
    assert len(reader.pending()) == 1
    reader.take()
    path.write_bytes(whole + whole)
    assert len(reader.pending()) == 1


def test_what_was_not_taken_is_pending_again(tmp_path):
    """Its sink was down."""
    path = tmp_path / "events.jsonl"
    reader = EventReader(path)
    with EventWriter(path) as writer:
        for step in range(3):
            writer.step(step, 3, {})
            assert [event.step for event in reader.pending()] == list(range(step + 1))


@pytest.mark.parametrize("taken", range(1, 6))
@pytest.mark.parametrize("kept", range(1, 6))
@pytest.mark.parametrize("more", [1, 20])
def test_a_file_that_was_cut_back_and_grew_again_is_read_from_the_cut(tmp_path, taken: int, kept: int, more: int):
    """Between two looks: it may be longer than before, and the old end is then in the middle of a line."""
    path, reader, ends = tmp_path / "events.jsonl", EventReader(tmp_path / "events.jsonl"), []
    with EventWriter(path) as writer:
        for step in range(1, taken + 1):
            writer.step(step, 30, {"loss": step / 7})
            ends.append(writer.offset())
    assert len(reader.pending()) == taken
    reader.take()
    with EventWriter(path, keep_bytes=ends[min(kept, taken) - 1]) as writer:
        for number in range(more):
            writer.log(f"again {number}")
    assert [event.message for event in reader.pending()] == [f"again {number}" for number in range(more)]
    assert reader.was_cut == (kept < taken)
    reader.take()
    assert reader.pending() == [] and not reader.was_cut


def test_a_resume_cuts_the_file_back_to_its_checkpoint(tmp_path):
    path = tmp_path / "events.jsonl"
    with EventWriter(path) as writer:
        writer.step(1, 3, {"loss": 3.0})
        checkpoint = writer.offset()
        writer.step(2, 3, {"loss": 2.0})
    with EventWriter(path, keep_bytes=checkpoint) as writer:
        writer.step(2, 3, {"loss": 2.0})
        writer.step(3, 3, {"loss": 1.0})
    assert [event.step for event in read_events(path)] == [1, 2, 3]


def test_a_loss_that_is_not_a_number_is_null_and_no_broken_json(tmp_path):
    path = tmp_path / "events.jsonl"
    with EventWriter(path) as writer:
        writer.step(1, 1, {"loss": math.nan, "lr": 0.1})
    assert read_events(path)[0].metrics == {"loss": None, "lr": 0.1}


def test_a_file_that_is_not_there_yet_has_no_events(tmp_path):
    assert read_events(tmp_path / "none.jsonl") == []


def test_progress_is_thinned_but_its_last_line_always_comes(tmp_path):
    path = tmp_path / "events.jsonl"
    with EventWriter(path) as writer:
        assert list(writer.track(iter(range(1000)), 1000, "rows")) == list(range(1000))
    events = read_events(path)
    assert len(events) < 100
    assert (events[-1].step, events[-1].total, events[-1].message) == (1000, 1000, "rows")
