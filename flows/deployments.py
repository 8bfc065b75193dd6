"""Every flow as a deployment named `local`, served by this process (`python -m flows.deployments`).

`prefect.yaml` offers the same flows on a work pool. What the two must agree on is here; a test compares them.
"""

import asyncio
import logging
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, Self

import httpx
from prefect.client.schemas.objects import ConcurrencyLimitConfig, FlowRun
from prefect.deployments.runner import RunnerDeployment
from prefect.flows import EntrypointType, Flow
from prefect.runner import Runner

from flows.full_pipeline import full_pipeline
from flows.generate import generate
from flows.stages import ALL
from flows.sweep import sweep
from minimind import runtime
from tasks.pipeline import end_lost_runs
from tasks.redaction import without_secrets

logger = logging.getLogger(__name__)

DEPLOYED = (full_pipeline, *ALL, generate, sweep)
NAME = "local"
AT_ONCE = 2  # runs side by side; trainings take turns anyway (a lock on the device)
GROUPS = {
    "data": ("ingest", "clean", "shard", "tokenizer", "tokens"),
    "training": ("pretrain", "sft", "dpo", "lora", "distill"),
    "finishing": ("evaluate", "publish"),
    "answering": ("generate",),
}
"""Tag → the stages that have it, beside `minimind`, which all have."""
ONE_AT_A_TIME = ("data", "finishing", "answering")
"""Groups whose stages run one at a time, because each takes every core; a second run waits.

Not for their artifacts: two runs of a stage are safe, for the store's file locks let one of them build and the other
reuse. Not for trainings, nor for the pipeline with its trainings: they take turns on devices by file locks, which the
kernel frees when a holder dies. A limit in Prefect is a lease, and a run that cannot renew its lease is ended: a
training must not end because a server was away.
"""

KEPT = ("schedules", "paused")
"""What a person may have set in Prefect's page: not said again when the deployments are registered, so it stays."""


class _Lasting(Runner):
    """A runner that outlives its server: Prefect's own ends at the third look in vain, and its flows with it."""

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        poller = self._scheduled_run_poller
        look = poller._get_scheduled_flow_runs

        async def look_patiently() -> list[FlowRun]:
            try:
                return await look()
            except (httpx.HTTPError, OSError, ValueError) as error:  # ValueError: something else answers in its place
                logger.warning("Prefect does not say which runs are due: %s", without_secrets(str(error)))
                return []

        poller._get_scheduled_flow_runs = look_patiently  # type: ignore[method-assign]
        return self


def served() -> list[RunnerDeployment]:
    """A deployment for each flow."""
    return [_deployment(flow) for flow in DEPLOYED]


def group_of(flow_name: str) -> str | None:
    """The group of a stage; None for the pipeline and for sweeps."""
    return next((group for group, stages in GROUPS.items() if flow_name in stages), None)


def serve_all(ready: Path) -> None:
    """Register the deployments, write their names to `ready`, and run what is asked of them until stopped."""
    runner = _Lasting(name=NAME, limit=AT_ONCE, pause_on_shutdown=False)
    for deployment in served():
        runner.add_deployment(deployment)
    end_lost_runs(runtime.home())
    runtime.write_atomic(ready, ", ".join(f"{flow.name}/{NAME}" for flow in DEPLOYED))
    try:
        asyncio.run(runner.start())
    except KeyboardInterrupt:
        return


def _deployment(flow: Flow[Any, Any]) -> RunnerDeployment:
    group = group_of(flow.name)
    deployment = flow.to_deployment(
        name=NAME,
        description=flow.description,
        tags=["minimind", *([group] if group else [])],
        version=metadata.version("minimind-pipeline"),
        concurrency_limit=ConcurrencyLimitConfig(limit=1) if group in ONE_AT_A_TIME else None,
        # By module, not by file: a file entrypoint puts `flows/` first on sys.path.
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    deployment.model_fields_set.difference_update(KEPT)
    return deployment


if __name__ == "__main__":
    serve_all(Path(sys.argv[1]))
