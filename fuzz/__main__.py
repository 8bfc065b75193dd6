"""The command line: fuzz for a time and say what came of it, or check single files."""

import argparse
import json
import traceback
from pathlib import Path

from fuzz import campaign
from fuzz.session import load

TARGETS = ("rows", "spec", "server")


def main() -> int:
    """Exit code 1 where something was found."""
    given = _parser().parse_args()
    if given.replay:
        return _replay(given.target, given.replay)
    finds = given.finds or given.corpus.with_name(given.corpus.name + "-finds")
    figures = campaign.run(given.target, seconds=given.seconds, corpus=given.corpus, finds=finds)
    print(json.dumps(campaign.shown(figures), indent=2, ensure_ascii=False))
    return 1 if figures.finds else 0


def _replay(name: str, paths: list[Path]) -> int:
    target, broken = load(name), 0
    for path in paths:
        try:
            target.check(path.read_bytes())
            print(f"{path}: holds")
        except Exception:  # whatever it is, it is shown
            broken += 1
            print(f"{path}: broken\n{traceback.format_exc()}")
    return 1 if broken else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=300, help="how long; 300 by default")
    parser.add_argument(
        "--corpus", type=Path, default=Path("build/fuzz/corpus"), help="inputs to go on from, kept there"
    )
    parser.add_argument("--finds", type=Path, help="where what breaks is kept; beside the corpus by default")
    parser.add_argument(
        "--replay", type=Path, nargs="+", metavar="FILE", help="check these files once, without a fuzzer"
    )
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
