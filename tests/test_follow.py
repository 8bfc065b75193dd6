"""Following a running stage: in order, nothing lost, and a sink that is down stops nothing."""

import time
from pathlib import Path

from minimind.events import EVENTS_FILE, Event, EventWriter
from tasks import follow
from tasks.follow import Follower


def test_events_arrive_in_order_while_they_are_written_and_all_by_the_end(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(follow, "POLL_SECONDS", 0.01)
    seen: list[int] = []
    with (
        EventWriter(tmp_path / EVENTS_FILE) as writer,
        Follower(tmp_path, {"list": lambda e: seen.extend(x.step for x in e)}),
    ):
        for step in range(50):
            writer.step(step, 50, {"loss": 1.0})
            if step == 25:
                time.sleep(0.1)
        half = len(seen)
    assert half > 0
    assert seen == list(range(50))


def test_a_sink_that_fails_gets_everything_later_and_the_others_do_not_wait(tmp_path: Path, monkeypatch):
    """MLflow that is down for a while must cost no metric, and must not stop the progress bar."""
    monkeypatch.setattr(follow, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(follow, "FIRST_PAUSE_SECONDS", 0.01)
    broken, healthy, fails = [], [], [3]

    def flaky(events: list[Event]) -> None:
        if fails[0]:
            fails[0] -= 1
            raise ConnectionError("down")
        broken.extend(event.step for event in events)

    follower = Follower(tmp_path, {"flaky": flaky, "healthy": lambda e: healthy.extend(x.step for x in e)})
    with EventWriter(tmp_path / EVENTS_FILE) as writer, follower:
        for step in range(20):
            writer.step(step, 20, {})
        until = time.monotonic() + 30
        while fails[0] and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(0.2)  # longer than the last pause
    assert healthy == list(range(20))
    assert broken == list(range(20))


def test_two_lines_of_the_same_step_are_both_delivered(tmp_path: Path):
    """The last step's figures and the final validation are two lines of one step."""
    seen: list[set[str]] = []
    with EventWriter(tmp_path / EVENTS_FILE) as writer:
        writer.step(5, 5, {"loss": 1.0})
        writer.step(5, 5, {"validation_loss": 2.0})
    with Follower(tmp_path, {"list": lambda events: seen.extend(set(e.metrics) for e in events)}):
        pass
    assert seen == [{"loss"}, {"validation_loss"}]


def test_a_line_written_as_a_resume_cuts_the_file_is_delivered(tmp_path: Path):
    """`step 4 is passed over`, between two looks: the file is longer again than it was, and the steps are old ones."""
    seen: list[str] = []
    path = tmp_path / EVENTS_FILE
    with EventWriter(path) as writer:
        writer.step(1, 9, {})
        checkpoint = writer.offset()
        writer.step(2, 9, {})
    position = follow._Position(path, "list", lambda es: seen.extend(e.message or str(e.step) for e in es), -1)
    position.deliver()
    with EventWriter(path, keep_bytes=checkpoint) as writer:
        writer.log("passed over", "warning")
        for step in (2, 3, 4):
            writer.step(step, 9, {"loss": 1 / 3})
    position.deliver()
    assert seen == ["1", "2", "passed over", "3", "4"]


def test_steps_delivered_before_a_resume_are_not_delivered_again(tmp_path: Path):
    seen: list[int] = []
    with EventWriter(tmp_path / EVENTS_FILE) as writer:
        for step in range(1, 11):
            writer.step(step, 10, {})
    with Follower(tmp_path, {"list": lambda e: seen.extend(x.step for x in e)}, skip_to_step=6):
        pass
    assert seen == [7, 8, 9, 10]
