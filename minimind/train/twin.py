"""A model's twin without memory, for strategies that cut the model itself and put it together again at the end."""

import copy

import torch
from torch import nn

from minimind.model.transformer import Transformer


def empty_twin(model: Transformer) -> Transformer:
    """A copy of `model` whose parameters are on the device `meta`: `load_state_dict(…, assign=True)` fills it."""
    # parameters are replaced by the first pass of deepcopy that sees them
    empty = {id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for p in model.parameters()}
    return copy.deepcopy(model, empty)
