from pathlib import Path

Path("bad_input_canary").touch()
