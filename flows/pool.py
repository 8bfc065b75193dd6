"""What a flow run on a work pool needs before its flow is loaded. `prefect.yaml` names `enter` as its pull step.

There is nothing to pull: a worker runs in an environment in which this checkout is installed. So no deployment names
a place of one machine, and each worker's own MINIMIND_HOME counts.
"""

import os

from flows.serve import environment
from minimind import runtime


def enter() -> dict[str, str]:
    """Go to this checkout, with the environment that flows find under `minimind up`.

    Prefect runs this in the process that becomes the flow's, and starts the flow in what it leaves behind.
    """
    os.environ.setdefault("MINIMIND_PREFECT_CONSOLE", "INFO")  # a worker prints what its flows print
    os.environ.update(environment(runtime.home()))
    return {"directory": str(runtime.CHECKOUT)}
