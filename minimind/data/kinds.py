"""The kinds of rows, by name alone: what the command line and the forms of the flows know without reading any.

Not here: what a row of each kind looks like (`documents`), and which training learns from it (`train.stage_configs`).
"""

from typing import Literal

RowKind = Literal["pretrain", "chat", "preference", "lora", "prompt"]
"""In the order they are trained on."""
CONVERSATIONS: tuple[RowKind, ...] = ("chat", "lora")
"""The kinds whose rows are conversations. All that tells them apart is who learns from them."""
