"""One run of the fuzzer in this process, by atheris and libFuzzer; it ends the process.

    python -m fuzz.session TARGET FINDS_DIR libFuzzer's arguments…

A claim that does not hold is kept as a file, and the run goes on: what has the same cause is kept once. Only what
kills or stops the process (a fault of native code, no end, too much memory) is left to libFuzzer, which keeps the input
and ends; `campaign` starts another run then. Only our own modules are instrumented.
"""

import hashlib
import importlib
import random
import sys
import traceback
from pathlib import Path
from typing import Any

from fuzz.target import Broken, Target


def signature(error: BaseException) -> str:
    """What the same fault has in common wherever it is met: the claim, or the error and the place it was raised."""
    if isinstance(error, Broken):
        return error.claim
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "minimind" in Path(frame.filename).parts]
    place = f"{Path(frames[-1].filename).name}:{frames[-1].name}" if frames else "outside"
    return f"{type(error).__name__} in {place}"


def load(name: str) -> Target:
    """The target of that name."""
    return importlib.import_module(f"fuzz.{name}").TARGET


class Finds:
    """Files of inputs that break a claim, one for each signature."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._known = {path.stem for path in directory.glob("*.txt")}

    def keep(self, data: bytes, error: Exception) -> None:
        """Write the input, and beside it what happened, unless the same was found before."""
        stem = hashlib.sha256(signature(error).encode()).hexdigest()[:12]
        if stem in self._known:
            return
        self._known.add(stem)
        said = f"{signature(error)}\n\n{''.join(traceback.format_exception(error))}"
        (self._directory / f"{stem}.bin").write_bytes(data)
        (self._directory / f"{stem}.txt").write_text(said, encoding="utf-8", errors="backslashreplace")
        print(f"FOUND {stem}: {signature(error)}", file=sys.stderr, flush=True)


def main(name: str, finds_dir: str, *arguments: str) -> None:
    """Fuzz until libFuzzer's own arguments say it is enough."""
    import atheris

    with atheris.instrument_imports(include=["minimind"]):
        target = load(name)
    finds = Finds(Path(finds_dir))

    def once(data: bytes) -> None:
        try:
            target.check(data)
        except Exception as error:  # whatever it is, it is what we look for
            finds.keep(data, error)

    def other(data: bytes, max_size: int, seed: int) -> Any:
        rng = random.Random(seed)
        if rng.random() < 0.5:
            return atheris.Mutate(data, max_size)
        return target.mutate(data, rng)[:max_size]

    atheris.Setup([sys.argv[0], *arguments], once, custom_mutator=other)
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
