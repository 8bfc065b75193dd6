"""Coverage-guided fuzzing of what strangers' bytes reach first: the readers of rows, the parsers of specs, the server.

    python -m fuzz rows --seconds 3600 --corpus /tmp/corpus      (or spec, or server; needs the extra `fuzz`)
    python -m fuzz rows --replay FILE …                          (what was found, again; needs nothing)

A target is a claim about any bytes (`Target.check`), and bytes to begin with. The same claims are tested without the
fuzzer on the seeds and on everything that was ever found (`tests/test_fuzz.py`, `tests/fuzz_finds`).
"""
