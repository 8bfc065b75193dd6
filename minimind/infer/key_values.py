"""Keys and values of what a model has read: a row for each answer under way, and blocks of prompts for the next ones.

`KeyValues` holds rows of one tensor. Answers under way are its first rows without a gap, so that attention over all of
them is one call and copies nothing. It grows as the longest of them does. Rows it never wrote cost no memory on a CPU.

`Prefixes` keeps blocks of `BLOCK` tokens of prompts that were read, the least recently used of them leave first. A
block is found by a digest of all tokens up to its end and the adapter they were read with, so what is taken from here
is what reading again would give. Only what was read as a prompt is kept, never what was generated: the two are computed
by different products, and an answer must not depend on whether its beginning was found here.

Axes: L layers, 2 for keys and values, B rows, K kv heads, S positions, C head size. Not here: what is in them
(`network`), who gets a row (`engine`).
"""

import hashlib
import math
import mmap
from array import array
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor

from minimind.model.config import ModelConfig

BLOCK = 64
"""Tokens. Prompts are read in blocks of as many, so that a block's numbers do not depend on what was read with it."""
FIRST_LENGTH = 512
"""Positions of every row before one of them needs more."""


class KeyValues:
    """Memory for the keys and values of some rows of tokens."""

    def __init__(self, config: ModelConfig, rows: int, *, dtype: torch.dtype, device: torch.device) -> None:
        self._longest = -(-config.max_positions // FIRST_LENGTH) * FIRST_LENGTH
        self._shape = (config.num_layers, 2, rows, config.num_kv_heads)
        self._head_size, self._dtype, self._device = config.head_size, dtype, device
        self.all_L2BKSC = self._new(FIRST_LENGTH)

    @property
    def length(self) -> int:
        """Positions there is room for."""
        return self.all_L2BKSC.shape[4]

    def layer(self, number: int) -> Tensor:
        """Keys and values of a layer, 2×B×K×S×C."""
        return self.all_L2BKSC[number]

    def make_room(self, length: int) -> None:
        """Have room for `length` positions of every row; what is there is kept."""
        if length <= self.length:
            return
        old, size = self.all_L2BKSC, self.length
        while size < length:
            size *= 2
        self.all_L2BKSC = self._new(min(size, self._longest))
        for row in range(old.shape[2]):  # a row that was never written is not read either: it is no memory yet
            if old[0, 0, row, 0, 0].any():
                self.all_L2BKSC[:, :, row, :, : old.shape[4]] = old[:, :, row]

    def shrink(self) -> None:
        """Give back what long rows needed. Nothing is kept."""
        if self.length > FIRST_LENGTH:
            self.all_L2BKSC = self._new(FIRST_LENGTH)

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of a row over another one's."""
        self.all_L2BKSC[:, :, target, :, :length] = self.all_L2BKSC[:, :, source, :, :length]

    def row(self, number: int) -> Tensor:
        """All of a row, L×2×K×S×C."""
        return self.all_L2BKSC[:, :, number]

    def put(self, block_L2KSC: Tensor, start: int) -> None:
        """Write a block into the first row."""
        self.all_L2BKSC[:, :, 0, :, start : start + block_L2KSC.shape[3]] = block_L2KSC

    def take_row(self, other: "KeyValues", number: int, length: int) -> None:
        """Copy the first `length` positions of the other's first row into a row of this."""
        self.make_room(length)
        self.all_L2BKSC[:, :, number, :, :length] = other.all_L2BKSC[:, :, 0, :, :length]

    def new_blocks(self, count: int) -> Tensor:
        """Memory for so many blocks of a row, N×L×2×K×`BLOCK`×C."""
        layers, _, _, kv_heads = self._shape
        return self._zeros(count, layers, 2, kv_heads, BLOCK, self._head_size)

    def _new(self, length: int) -> Tensor:
        return self._zeros(*self._shape, length, self._head_size)

    def _zeros(self, *shape: int) -> Tensor:
        """Zeros, because what is masked is still multiplied, by 0, and 0 · NaN is NaN."""
        if self._device.type != "cpu":
            return torch.zeros(shape, dtype=self._dtype, device=self._device)
        # Pages of our own, which the system gives when they are written, small ones, and gets back at once.
        memory = mmap.mmap(-1, max(1, math.prod(shape)) * self._dtype.itemsize)
        if hasattr(mmap, "MADV_NOHUGEPAGE"):
            memory.madvise(mmap.MADV_NOHUGEPAGE)
        return torch.frombuffer(memory, dtype=self._dtype)[: math.prod(shape)].view(shape)


class Prefixes:
    """Blocks of prompts by what they say, as many tokens as are allowed."""

    def __init__(self, max_tokens: int, like: KeyValues) -> None:
        self._max_blocks = max_tokens // BLOCK
        # One memory for all of them: blocks that come and go would leave it in pieces.
        self._kept_NL2KSC = like.new_blocks(self._max_blocks)
        self._free = list(range(self._max_blocks))
        self._places: OrderedDict[bytes, int] = OrderedDict()

    @property
    def tokens(self) -> int:
        """Tokens that are kept."""
        return len(self._places) * BLOCK

    def find(self, tokens: Sequence[int], adapter: str | None) -> list[Tensor]:
        """The blocks (L×2×K×`BLOCK`×C) that `tokens` begin with. The last is never in one: its scores are wanted."""
        found = []
        for name in _names(tokens[:-1], adapter):
            place = self._places.get(name)
            if place is None:
                break
            self._places.move_to_end(name)
            found.append(self._kept_NL2KSC[place])
        return found

    def keep(self, tokens: Sequence[int], adapter: str | None, row_L2KSC: Tensor) -> None:
        """Keep the whole blocks of a prompt whose keys and values are `row_L2KSC`."""
        names = list(_names(tokens, adapter))[: self._max_blocks]
        for name in reversed(names):  # the beginning of a prompt leaves last
            if name in self._places:
                self._places.move_to_end(name)
        for number, name in enumerate(names):
            if name not in self._places:
                place = self._free.pop() if self._free else self._places.popitem(last=False)[1]
                self._places[name] = place
                self._kept_NL2KSC[place] = row_L2KSC[..., number * BLOCK : (number + 1) * BLOCK, :]
        for name in reversed(names):
            self._places.move_to_end(name)


def _names(tokens: Sequence[int], adapter: str | None):
    """A digest for every whole block, of everything up to its end."""
    digest = hashlib.blake2b(f"{adapter}\0".encode() if adapter else b"", digest_size=16)
    for end in range(BLOCK, len(tokens) + 1, BLOCK):
        digest.update(array("q", tokens[end - BLOCK : end]).tobytes())
        yield digest.digest()
