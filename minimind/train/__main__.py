"""One rank: `python -m minimind.train run.json`, started by torchrun. See `launch.py`."""

import faulthandler
import os
import signal
import sys
from pathlib import Path

from minimind.train.launch import PULSES_DIR, STACKS_SIGNAL, STOPPED_BY_SIGNAL, end_with_parent, record_failure
from minimind.train.stage_configs import TrainRun


def main(run_path: Path) -> int:
    """Train, and give the exit code. What ends a training early is noted for the process that launched it."""
    end_with_parent(signal.SIGKILL)
    faulthandler.register(STACKS_SIGNAL, all_threads=True)
    run = TrainRun.read_json(run_path, remedy="run the training again")
    rank = int(os.environ.get("RANK", "0"))
    try:
        from minimind.train.job import run_rank  # here, so that an import that fails is noted too
        from minimind.train.loop import Stopped
        from minimind.train.parallel import join
    except ImportError as error:
        record_failure(run.out_dir, rank, error)
        raise
    try:
        with join(run.config.device, stall_seconds=run.config.stall_seconds, pulses=run.out_dir / PULSES_DIR) as ranks:
            run_rank(run, ranks)
    except Stopped as error:
        record_failure(run.out_dir, rank, error)
        return STOPPED_BY_SIGNAL
    except BaseException as error:
        record_failure(run.out_dir, rank, error)
        raise
    return 0


if __name__ == "__main__":
    code = main(Path(sys.argv[1]))
    sys.stdout.flush()
    sys.stderr.flush()
    # All is on disk. The interpreter's own end was seen to abort once in some twenty runs of two
    # gloo ranks ("terminate called without an active exception"), which torchrun takes for a failure.
    os._exit(code)
