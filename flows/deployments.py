"""Every flow as a deployment named `local`, served by this process (`python -m flows.deployments`)."""

import asyncio
import sys
from pathlib import Path

from prefect.flows import EntrypointType
from prefect.runner import Runner

from flows.full_pipeline import full_pipeline
from flows.stages import ALL

NAME = "local"
AT_ONCE = 2  # runs side by side; trainings take turns anyway (a lock on the device)


def names() -> list[str]:
    """`full-pipeline/local` and its kin."""
    return [f"{flow.name}/{NAME}" for flow in (full_pipeline, *ALL)]


def serve_all(ready: Path) -> None:
    """Register the deployments, write `ready`, and run what is asked of them until stopped."""
    runner = Runner(name=NAME, limit=AT_ONCE, pause_on_shutdown=False)
    for flow in (full_pipeline, *ALL):
        runner.add_deployment(
            flow.to_deployment(
                name=NAME,
                description=(flow.description or "").strip(),
                tags=["minimind"],
                # By module, not by file: a file entrypoint puts `flows/` first on sys.path.
                entrypoint_type=EntrypointType.MODULE_PATH,
            )
        )
    ready.touch()
    try:
        asyncio.run(runner.start())
    except KeyboardInterrupt:
        return


if __name__ == "__main__":
    serve_all(Path(sys.argv[1]))
