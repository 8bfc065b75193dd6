"""Many answers at once: they come and go between two steps, and none of them knows of the others.

Each step reads a part of the prompts that wait and draws one token of every answer under way. A prompt is read into a
row of its own, in parts when others are being answered, so that no stream stands still for longer than a part takes; a
beginning that was read before is taken from `Prefixes`. Answers under way fill the first rows of `KeyValues`: when one
ends, the last takes its place.

What a model answers depends on the prompt, the sampling and the machine, on nothing else: neither on what is answered
beside it, nor on what was answered before (`network` says how). Not here: processes and clients (`worker`,
`minimind.serve`), the chat format.
"""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import psutil
import torch

from minimind.errors import ConfigError, DataError
from minimind.infer.answer import Answer, ContextError
from minimind.infer.json_object import JsonObject
from minimind.infer.key_values import BLOCK, FIRST_LENGTH, Prefixes
from minimind.infer.network import Network
from minimind.infer.parts import Wearers
from minimind.infer.sampling import Sampler, Sampling
from minimind.infer.text import TextStream
from minimind.tokens.tokenizer import Tokenizer

PART = 4 * BLOCK
"""Tokens of prompts that are read in a step beside answers under way: at minimind2-small's size a tenth of a second."""
WHOLE = 32 * BLOCK
"""The same where nobody waits for a next token."""
PREFIX_TOKENS = 16384


@dataclass
class Counts:
    """What an engine did since its start."""

    steps: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    busy_seconds: float = 0.0


class Engine:
    """Answers with one model, and the adapters attached to it."""

    def __init__(
        self,
        network: Network,
        tokenizer: Tokenizer,
        *,
        name: str = "model",
        max_batch: int = 64,
        cache_tokens: int | None = None,
        prefix_tokens: int = PREFIX_TOKENS,
    ) -> None:
        self.config, self.tokenizer, self.name, self.max_batch = network.config, tokenizer, name, max_batch
        self.precision = network.precision
        self.cache_tokens = cache_tokens or default_cache_tokens(network, max_batch)
        self.counts = Counts()
        self.adapters: set[str] = set()
        self._network = network
        self._rows, self._reading_row = network.new_key_values(max_batch), network.new_key_values(1)
        self._prefixes = Prefixes(prefix_tokens, self._reading_row)
        self._waiting: deque[Answer] = deque()
        self._reading: Answer | None = None
        self._read = 0
        """Tokens of the prompt being read that are done."""
        self._running: list[Answer] = []

    @property
    def running(self) -> int:
        """Answers under way."""
        return len(self._running) + (self._reading is not None)

    @property
    def waiting(self) -> int:
        """Prompts that nobody has looked at yet."""
        return len(self._waiting)

    @property
    def held_tokens(self) -> int:
        """Tokens whose keys and values are kept."""
        return sum(answer.length for answer in self._running) + self._read + self._prefixes.tokens

    def ask(self, prompt: Sequence[int], sampling: Sampling, *, adapter: str | None = None) -> Answer:
        """Have a prompt answered by the next steps.

        Raises DataError for one that cannot be (ContextError: too long), ConfigError for an adapter that is not there.
        """
        check_prompt(prompt, vocab_size=self.config.vocab_size, context=self.config.max_positions)
        if adapter is not None and adapter not in self.adapters:
            raise ConfigError(f"no adapter `{adapter}`; there are: {', '.join(sorted(self.adapters)) or 'none'}")
        if len(prompt) >= self.cache_tokens:
            raise ContextError(
                f"the prompt has {len(prompt)} tokens, and this engine keeps {self.cache_tokens} at most "
                "(--cache-tokens); shorten the prompt"
            )
        json = JsonObject(self.tokenizer.piece_bytes()) if sampling.json_object else None
        answer = Answer(
            prompt=list(prompt),
            sampling=sampling,
            sampler=Sampler(sampling, prompt=prompt, allowed=json.allows if json else None),
            text=TextStream(self.tokenizer, sampling.stop),
            limit=min(len(prompt) + sampling.max_tokens, self.config.max_positions, self.cache_tokens),
            adapter=adapter,
            json=json,
        )
        self._waiting.append(answer)
        return answer

    def cancel(self, answer: Answer) -> None:
        """Nobody waits for it any more: it ends, and its place is free."""
        if answer.finish_reason is not None:
            return
        answer.end("cancelled")
        if answer in self._waiting:
            self._waiting.remove(answer)
        elif answer is self._reading:
            self._reading, self._read = None, 0
        else:
            self._leave(self._running.index(answer))

    def step(self) -> list[Answer]:
        """Read a part of a prompt, draw a token of every answer; gives those that went on. Empty where none is left."""
        began = time.perf_counter()
        moved = self._read_prompts()
        if self._running:
            moved += self._draw_all()
        elif self._reading is None:
            self._rows.shrink()
            self._reading_row.shrink()
        if moved or self._reading:
            self.counts.steps += 1
            self.counts.busy_seconds += time.perf_counter() - began
        return moved

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self._running or self._waiting or self._reading)

    def _read_prompts(self) -> list[Answer]:
        """Go on with the prompt being read, and the next ones, for as many tokens as a step may take."""
        left = PART if self._running else WHOLE
        moved = []
        while left > 0 and (self._reading or self._admit()):
            answer = self._reading
            assert answer is not None
            part = answer.prompt[self._read : self._read + max(BLOCK, left // BLOCK * BLOCK)]
            scores_V = self._network.prefill(
                part, start=self._read, key_values=self._reading_row, adapter=answer.adapter
            )
            self._read += len(part)
            self.counts.prompt_tokens += len(part)
            left -= len(part)
            if self._read == len(answer.prompt):
                self._begin(answer, scores_V)
                moved.append(answer)
        return moved

    def _admit(self) -> bool:
        """Begin to read the next prompt, if there is a row and room for it."""
        if not self._waiting or len(self._running) >= self.max_batch:
            return False
        promised = sum(answer.limit for answer in self._running)
        if promised + self._waiting[0].limit > self.cache_tokens:
            return False
        self._reading = answer = self._waiting.popleft()
        answer.started = True
        blocks = self._prefixes.find(answer.prompt, answer.adapter)
        self._read = answer.cached_tokens = len(blocks) * BLOCK
        self.counts.cached_tokens += self._read
        self._reading_row.make_room(len(answer.prompt))
        for number, block in enumerate(blocks):
            self._reading_row.put(block, number * BLOCK)
        return True

    def _begin(self, answer: Answer, scores_V: torch.Tensor) -> None:
        """The prompt is read: draw the first token, and give the answer its row."""
        self._prefixes.keep(answer.prompt, answer.adapter, self._reading_row.row(0))
        self._reading, self._read = None, 0
        self._add(answer, scores_V.cpu().numpy())
        if answer.finish_reason is None:
            self._rows.take_row(self._reading_row, len(self._running), len(answer.prompt))
            self._running.append(answer)

    def _draw_all(self) -> list[Answer]:
        """One more token of every answer under way."""
        moved = list(self._running)
        scores_BV = self._network.decode(
            [answer.ids[-1] for answer in moved],
            lengths=[answer.length - 1 for answer in moved],
            key_values=self._rows,
            wearers=self._wearers(),
        )
        for answer, scores_V in zip(moved, scores_BV.cpu().numpy(), strict=True):
            self._add(answer, scores_V)
        for row in reversed(range(len(moved))):
            if moved[row].finish_reason is not None:
                self._leave(row)
        return moved

    def _add(self, answer: Answer, scores_V: np.ndarray) -> None:
        try:
            answer.add(answer.sampler.next(scores_V), self.tokenizer.specials.stop)
        except DataError as error:  # of this answer alone: the others go on
            answer.error = error
            answer.end("cancelled")
        else:
            self.counts.completion_tokens += 1

    def _leave(self, row: int) -> None:
        """Take an answer out; the last one gets its row."""
        last = len(self._running) - 1
        if row != last:
            self._rows.move(last, row, self._running[last].length)
            self._running[row] = self._running[last]
        self._running.pop()

    def _wearers(self) -> Wearers:
        """Adapters that answers under way have, with their rows."""
        rows: dict[str, list[int]] = {}
        for row, answer in enumerate(self._running):
            if answer.adapter is not None:
                rows.setdefault(answer.adapter, []).append(row)
        return [(name, torch.tensor(found, device=self._network.device)) for name, found in rows.items()]


def check_prompt(prompt: Sequence[int], *, vocab_size: int, context: int) -> None:
    """Raise DataError for a prompt that is empty, leaves no room in the context, or has ids the model does not."""
    if not prompt:
        raise DataError("the prompt is empty; give it at least one token (<|endoftext|> starts a text from nothing)")
    if len(prompt) >= context:
        raise ContextError(
            f"the prompt has {len(prompt)} tokens and the model's context {context}, which leaves no room for "
            "an answer; shorten the prompt"
        )
    foreign = next((token for token in prompt if not 0 <= token < vocab_size), None)
    if foreign is not None:
        raise DataError(
            f"the prompt has token {foreign} and the model only 0 to {vocab_size - 1}; "
            "encode the prompt with the tokenizer of this model"
        )


def default_cache_tokens(network: Network, rows: int) -> int:
    """Tokens whose keys and values fit into a quarter of the free memory; not more than all rows could need."""
    on_gpu = network.device.type == "cuda"
    free = torch.cuda.mem_get_info(network.device)[0] if on_gpu else psutil.virtual_memory().available
    fitting = free // (4 * network.bytes_per_position)
    return max(FIRST_LENGTH, min(rows * network.config.max_positions, fitting))
