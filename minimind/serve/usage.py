"""Counts the tokens of a request's answers, for its usage and the metrics."""

from dataclasses import dataclass, field

from minimind.infer.protocol import Began, Ended
from minimind.serve.answers import CompletionDetails, PromptDetails, Usage


@dataclass
class Tally:
    """Tokens of all answers to one request so far. A prompt that gets several answers counts once."""

    choices_per_prompt: int = 1
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    _prompts: dict[int, int] = field(default_factory=dict)
    """Number of a prompt → its tokens."""

    def began(self, choice: int, message: Began) -> None:
        prompt = choice // self.choices_per_prompt
        if prompt not in self._prompts:
            self._prompts[prompt] = message.prompt_tokens
            self.cached_tokens += message.cached_tokens

    def ended(self, message: Ended) -> None:
        self.completion_tokens += message.completion_tokens
        self.reasoning_tokens += message.reasoning_tokens

    @property
    def prompt_tokens(self) -> int:
        return sum(self._prompts.values())

    def usage(self) -> Usage:
        return Usage(
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            total_tokens=self.prompt_tokens + self.completion_tokens,
            prompt_tokens_details=PromptDetails(cached_tokens=self.cached_tokens),
            completion_tokens_details=CompletionDetails(reasoning_tokens=self.reasoning_tokens),
        )
