"""The Transformer as it generates: no gradients, weights laid out for reading, keys and values kept.

The same numbers as `minimind.model.transformer` up to rounding; the two are held together by tests, token by token.
`prefill` reads a part of one prompt, `decode` one token of each of many answers. What either gives for a row depends on
that row alone, to the bit (on a CPU): `products` sees to products, and attention is kept so here. Prompts are
multiplied in blocks whose borders are multiples of `BLOCK`, wherever reading began; the keys of a decoded token are
filled up to a number that leaves sums as they are (`keys_alike`), and masked.

Axes: N tokens (of a prompt, or one of each row), B rows, S positions, D model width, H query heads, K kv heads, R =
H/K, C head size, V vocabulary. Not here: more than one device.
"""

from collections.abc import Iterator, Sequence
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from minimind.infer.key_values import BLOCK, KeyValues
from minimind.infer.parts import AttentionPart, LayerPart, Parts, Wearers, rms, unit
from minimind.infer.products import Precision, choose
from minimind.model.attention import fused_attention
from minimind.model.attention_blocks import blocked_attention
from minimind.model.layers import accumulation_dtype, rotary_frequencies, rotary_tables
from minimind.model.transformer import Transformer

_MOST_KEYS = 512
"""torch's attention takes as many keys at a time."""


class Network:
    """A model ready to generate. The `Transformer` it was made from is not needed any more."""

    def __init__(self, model: Transformer, precision: Precision = "auto") -> None:
        self.config, self.device = model.config, model.device
        self.precision, self.dtype = choose(precision, self.device)
        self._parts = Parts(self.precision, self.dtype)
        self._embedding_VD = model.model.embed_tokens.weight.detach().to(self.dtype)
        self._layers = self._parts.layers(model)
        self._head = self._parts.project([model.output_weight], after=model.model.norm)
        queries = self.config.num_heads // self.config.num_kv_heads
        self._keys = keys_alike(queries, self.config.head_size, self.dtype) if self.device.type == "cpu" else BLOCK
        self._frequencies_P = rotary_frequencies(self.config, self.device)
        self._turns: tuple[Tensor, Tensor] = (torch.empty(0), torch.empty(0))

    @property
    def bytes_per_position(self) -> int:
        """Of the keys and values of one token."""
        config = self.config
        return 2 * config.num_layers * config.num_kv_heads * config.head_size * self.dtype.itemsize

    def attach(self, name: str, model: Transformer) -> None:
        """Know the adapters that `model` carries (`load_adapter`) by a name."""
        self._parts.attach(name, model)

    def new_key_values(self, rows: int) -> KeyValues:
        """Memory for the keys and values of so many rows."""
        return KeyValues(self.config, rows, dtype=self.dtype, device=self.device)

    @torch.inference_mode()
    def prefill(
        self, tokens: Sequence[int], *, start: int, key_values: KeyValues, row: int = 0, adapter: str | None = None
    ) -> Tensor:
        """The scores (V, fp32) behind the last of `tokens`, which follow the first `start` ones of a row.

        `start` is a multiple of `BLOCK`.
        """
        assert start % BLOCK == 0, "a prompt is read in whole blocks"
        stop = start + len(tokens)
        key_values.make_room(stop)
        turns = tuple(table_SC[start:stop, None] for table_SC in self._turns_to(stop))
        wearers = [(adapter, slice(None))] if adapter else []
        stream_ND = self._embed(tokens)
        for number, layer in enumerate(self._layers):
            q_NHC, kv_N2KC = self._heads(layer.attention, stream_ND, turns, wearers, many=True)
            kept_2BKSC = key_values.layer(number)[:, row : row + 1]
            kept_2BKSC[:, 0, :, start:stop] = kv_N2KC.permute(1, 2, 0, 3)
            mixed_NHC = _read_attention(q_NHC, kept_2BKSC[0], kept_2BKSC[1], start)
            self._finish(layer, stream_ND, mixed_NHC.flatten(1), wearers, many=True)
        return self._scores(stream_ND[-1:], many=True)[0]

    @torch.inference_mode()
    def decode(
        self, tokens: Sequence[int], *, lengths: Sequence[int], key_values: KeyValues, wearers: Wearers = ()
    ) -> Tensor:
        """The scores (B×V, fp32) behind one more token of each of the first rows, which hold `lengths` so far."""
        key_values.make_room(max(lengths) + 1)
        lengths_B = torch.tensor(lengths, device=self.device)
        rows_B = torch.arange(len(tokens), device=self.device)
        turns = tuple(table_SC[lengths_B, None] for table_SC in self._turns_to(max(lengths) + 1))
        spans = list(_spans(lengths, self._keys))
        masks = [_mask(lengths_B[rows], keys, self.dtype) for rows, keys in spans]
        stream_BD = self._embed(tokens)
        for number, layer in enumerate(self._layers):
            q_BHC, kv_B2KC = self._heads(layer.attention, stream_BD, turns, wearers, many=False)
            kept_2BKSC = key_values.layer(number)
            kept_2BKSC[:, rows_B, :, lengths_B] = kv_B2KC
            q_BKRC = q_BHC.view(len(tokens), self.config.num_kv_heads, -1, self.config.head_size)
            mixed = [
                F.scaled_dot_product_attention(
                    q_BKRC[rows], kept_2BKSC[0, rows, :, :keys], kept_2BKSC[1, rows, :, :keys], attn_mask=mask
                )
                for (rows, keys), mask in zip(spans, masks, strict=True)
            ]
            mixed_BKRC = torch.cat(mixed) if len(mixed) > 1 else mixed[0]
            self._finish(layer, stream_BD, mixed_BKRC.flatten(1), wearers, many=False)
        return self._scores(stream_BD, many=False)

    def _embed(self, tokens: Sequence[int]) -> Tensor:
        return self._embedding_VD[torch.tensor(tokens, device=self.device)].to(accumulation_dtype(self.dtype))

    def _heads(
        self, part: AttentionPart, stream_ND: Tensor, turns: tuple[Tensor, ...], wearers: Wearers, *, many: bool
    ) -> tuple[Tensor, Tensor]:
        """The queries of all heads, and keys and values N×2×K×C; queries and keys turned by their positions."""
        config, half = self.config, self.config.head_size // 2
        normed_ND = unit(stream_ND, config.norm_eps, self.dtype)
        all_NHC = part.qkv(normed_ND, wearers, many=many).view(len(stream_ND), -1, config.head_size)
        turned_NHC = turning_NHC = all_NHC[:, : config.num_heads + config.num_kv_heads]
        if part.qk_norm is not None:
            turning_NHC = rms(turning_NHC, part.qk_norm, config.norm_eps, self.dtype)
        cos, sin = turns
        swapped_NHC = torch.cat((turning_NHC[..., half:], turning_NHC[..., :half]), -1)
        torch.addcmul(turning_NHC * cos, swapped_NHC, sin, out=turned_NHC)
        kv_N2KC = all_NHC[:, config.num_heads :].view(len(stream_ND), 2, config.num_kv_heads, config.head_size)
        return all_NHC[:, : config.num_heads], kv_N2KC

    def _finish(self, layer: LayerPart, stream_ND: Tensor, mixed_ND: Tensor, wearers: Wearers, *, many: bool) -> None:
        """Add what a layer's attention and its second half give to the stream."""
        stream_ND.add_(layer.attention.o(mixed_ND, wearers, many=many))
        normed_ND = unit(stream_ND, self.config.norm_eps, self.dtype)
        stream_ND.add_(layer.feed_forward(normed_ND, wearers, many=many))

    def _scores(self, stream_ND: Tensor, *, many: bool) -> Tensor:
        normed_ND = unit(stream_ND, self.config.norm_eps, self.dtype)
        return self._head(normed_ND, (), many=many).float()

    def _turns_to(self, length: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines (S×C) of at least so many positions; the first half of the sines is negative."""
        if length > len(self._turns[0]):
            positions = torch.arange(min(2 * length, self.config.max_positions), device=self.device)[None]
            cos, sin = rotary_tables(self._frequencies_P, positions, self.dtype)
            self._turns = cos[0, 0], torch.cat((-sin, sin), -1)[0, 0]
        return self._turns


def _read_attention(q_NHC: Tensor, keys_BKSC: Tensor, values_BKSC: Tensor, start: int) -> Tensor:
    """What the tokens of a prompt mix from those up to each of them, N×H×C; always in the same blocks."""
    mixed = []
    for first in range(0, len(q_NHC), BLOCK):
        q_BHTC = q_NHC[first : first + BLOCK].transpose(0, 1)[None]
        stop = start + first + q_BHTC.shape[2]
        k_BKSC, v_BKSC = keys_BKSC[:, :, :stop], values_BKSC[:, :, :stop]
        if q_NHC.device.type == "cpu":
            mixed.append(blocked_attention(q_BHTC, k_BKSC, v_BKSC)[0])
        else:
            at_S = torch.arange(stop, device=q_NHC.device)
            bias_TS = torch.zeros(q_BHTC.shape[2], stop, dtype=q_NHC.dtype, device=q_NHC.device)
            bias_TS.masked_fill_(at_S > at_S[start + first :, None], float("-inf"))
            mixed.append(fused_attention(q_BHTC, k_BKSC, v_BKSC, bias_TS[None])[0].transpose(0, 1))
    return torch.cat(mixed)


@cache
def keys_alike(queries: int, head_size: int, dtype: torch.dtype) -> int:
    """Keys filled up to multiples of this (`_filled`) give the same sums, to whichever of them. Found by trying.

    What fills up is multiplied by 0, but how many there are decides where a library cuts a sum in two.
    """
    generator = torch.Generator().manual_seed(0)
    q_BKRC = torch.randn(1, 8, queries, head_size, generator=generator).to(dtype)
    kv_2BKSC = torch.randn(2, 1, 8, 2 * _MOST_KEYS, head_size, generator=generator).to(dtype)

    def mixed(length: int, keys: int) -> Tensor:
        mask = _mask(torch.tensor([length - 1]), keys, dtype)
        return F.scaled_dot_product_attention(q_BKRC, kv_2BKSC[0, :, :, :keys], kv_2BKSC[1, :, :, :keys], mask)

    lengths = range(48, 2 * _MOST_KEYS, 71)
    wanted = {length: mixed(length, 2 * _MOST_KEYS) for length in lengths}
    for multiple in (16, 32, 64, 128, 192, 256):
        sizes = {_filled(keys, multiple) for keys in range(1, 2 * _MOST_KEYS)}
        if all(
            torch.equal(mixed(length, keys), wanted[length]) for length in lengths for keys in sizes if keys >= length
        ):
            return multiple
    return _MOST_KEYS


def _filled(keys: int, multiple: int) -> int:
    """How many keys that many are filled up to: what is over whole `_MOST_KEYS` to a multiple, or to one more."""
    whole, rest = divmod(keys, _MOST_KEYS)
    return whole * _MOST_KEYS + min(-(-rest // multiple) * multiple, _MOST_KEYS)


def _spans(lengths: Sequence[int], multiple: int) -> Iterator[tuple[slice, int]]:
    """Neighbouring rows of about one length, and how many keys they are multiplied with.

    A row is among rows at most twice as long as itself, or short: what it is filled up with is multiplied in vain.
    """
    first, keys = 0, 0
    for row, length in enumerate(lengths):
        filled = _filled(length + 1, multiple)
        if keys and max(filled, keys) > max(2 * min(filled, keys), 8 * BLOCK):
            yield slice(first, row), keys
            first, keys = row, 0
        keys = max(keys, filled)
    yield slice(first, len(lengths)), keys


def _mask(lengths_B: Tensor, keys: int, dtype: torch.dtype) -> Tensor:
    """0 for the keys that a row has, −∞ for those that fill it up: B×1×1×S."""
    hidden_BS = torch.arange(keys, device=lengths_B.device) > lengths_B[:, None]
    mask_BS = torch.zeros(hidden_BS.shape, dtype=dtype, device=lengths_B.device)
    return mask_BS.masked_fill_(hidden_BS, float("-inf"))[:, None, None]
