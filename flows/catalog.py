"""Every flow that `minimind run` can run, by its name."""

from typing import Any

from minimind.config import nearest
from minimind.errors import ConfigError

FULL = "full-pipeline"


def flow_names() -> list[str]:
    """Every flow that can be run, in the order of the pipeline."""
    return [FULL, *(flow.name for flow in _stage_flows())]


def parameters_of(name: str) -> set[str]:
    """The parameters a flow takes."""
    return set(find_flow(name).parameters.properties)


def find_flow(name: str) -> Any:
    """The flow of that name. Raises ConfigError with the known ones."""
    from flows.full_pipeline import full_pipeline

    found = {flow.name: flow for flow in (full_pipeline, *_stage_flows())}.get(name)
    if found is None:
        raise ConfigError(f"no stage `{name}`{nearest(name, flow_names())}")
    return found


def _stage_flows() -> tuple[Any, ...]:
    from flows.generate import generate
    from flows.stages import ALL

    return (*ALL, generate)
