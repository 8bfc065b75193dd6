"""The command that lends this machine to trainings which another one starts. Not here: how (`train/nodes.py`)."""

from typing import Annotated

import typer

from minimind.artifact import Store
from minimind.cli.shared import console
from minimind.errors import ConfigError
from minimind.train import nodes

Rank = Annotated[int, typer.Option("--rank", help="Which node this is: 1, 2, …; node 0 runs the pipeline.")]
Once = Annotated[bool, typer.Option("--once", help="End after one training.")]


def node(rank: Rank, once: Once = False) -> None:
    """Be another node of the trainings that node 0 starts in the same `MINIMIND_HOME`; Ctrl-C ends it.

    Node 0: `minimind run -o pretrain.nodes=2 -o pretrain.rendezvous=10.0.0.1:29500`. Here: `minimind node --rank 1`
    """
    if rank < 1:
        raise ConfigError(f"--rank {rank}: node 0 is the one that runs the pipeline; the others count from 1")

    def tell(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    nodes.serve(Store().root, node_rank=rank, once=once, tell=tell)
