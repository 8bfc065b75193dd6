"""EleutherAI's lm-evaluation-harness on a model directory of ours: the extra `lm-eval`.

The harness builds the prompts and counts the points; what it asks a model for is computed as everywhere in this
project. Requests about one context are one `Question`, so a context is read once, whatever the number of choices. A
text begins with <|endoftext|>, as documents do in training, and nothing in it is read as a special token; of a context
that the harness rendered as a chat the ids are those of `minimind.tokens.chat`.

The harness's own Hugging Face backend puts nothing before a text unless its tokenizer does (`add_bos_token` changes
nothing for a tokenizer without such a rule, which an export's is); with a tokenizer that puts <|endoftext|> first it
gives the same log-probabilities. Two things differ on purpose. Where a piece of the vocabulary reaches from the context
into a continuation it is scored here, and left out there. And long texts are scored in windows that overlap by half,
where the harness's begin with one token of context.

Import this module only where it is needed: without the extra the import is a MissingError. Not here: more than one
process.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from minimind.config import nearest
from minimind.errors import ConfigError, MiniMindError, MissingError, ServiceError
from minimind.evaluate.continuations import Question, choice_scores, continue_ids, encode_question
from minimind.evaluate.material import Subject
from minimind.evaluate.scoring import Documents, document_log_probs
from minimind.infer.generate import complete_all, name_of
from minimind.infer.sampling import Sampling
from minimind.runtime import Precision
from minimind.tokens.chat import CHAT_TEMPLATE, Message, render, render_prompt

try:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import LM
    from lm_eval.api.registry import register_model
    from lm_eval.models.utils import normalize_gen_kwargs
except ModuleNotFoundError as error:
    raise MissingError(
        f"lm-eval is not here whole (no module {error.name}); run `pip install 'minimind-pipeline[lm-eval]'`"
    ) from None

_SAMPLING = ("top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "seed")
_log = logging.getLogger(__name__)


def run_lm_eval(
    model_dir: Path,
    tasks: Sequence[str],
    *,
    limit: int | None = None,
    include_path: Path | None = None,
    num_fewshot: int | None = None,
    device: str = "auto",
    precision: Precision = "auto",
    batch_tokens: int | None = None,
) -> dict[str, Any]:
    """The harness's results of the model in `model_dir`, as they are.

    A task is a name, a pattern of names or a YAML file; `include_path` is a folder with more of them. Raises
    ConfigError for an unknown task, ServiceError where a task's data set cannot be fetched.
    """
    from lm_eval.evaluator import simple_evaluate

    manager = _task_manager(tasks, include_path)
    names = [name for task in tasks for name in _named(task, manager)]
    lm = MiniMindLM(model_dir, device=device, precision=precision, batch_tokens=batch_tokens)
    try:
        results = simple_evaluate(lm, tasks=names, limit=limit, num_fewshot=num_fewshot, task_manager=manager)
    except MiniMindError:
        raise
    except (ConnectionError, FileNotFoundError) as error:
        raise ServiceError(
            f"lm-eval {', '.join(tasks)}: a data set cannot be fetched ({error}); check the network, or run it once "
            "where there is one and copy the folder that HF_HOME names"
        ) from None
    assert results is not None, "there is one process"
    return dict(results)


def _task_manager(tasks: Sequence[str], include_path: Path | None) -> Any:
    """What knows tasks by name. Reading the harness's own 14,000 takes many seconds, so only where one is wanted."""
    from lm_eval.tasks import TaskManager

    if include_path is None:
        return TaskManager()
    if not include_path.is_dir():
        raise ConfigError(f"lm-eval: {include_path} is no folder; name one with task files (YAML)")
    own = TaskManager(include_path=str(include_path), include_defaults=False)
    return own if set(tasks) <= set(own.all_subtasks) else TaskManager(include_path=str(include_path))


def _named(task: str, manager: Any) -> list[str]:
    """The names that a task, a pattern or a file stands for."""
    found = manager.match_tasks([task]) or ([task] if Path(task).is_file() else [])
    if not found:
        raise ConfigError(f"lm-eval has no task `{task}`{_near(task, manager.all_tasks)}")
    return found


def _near(task: str, known: Sequence[str]) -> str:
    close = nearest(task, known)
    return close if "did you mean" in close else f"; `lm_eval ls tasks` lists all {len(known):,}"


@register_model("minimind")
class MiniMindLM(LM):
    """A model directory as the harness wants a model."""

    def __init__(
        self,
        pretrained: str | Path,
        *,
        device: str = "auto",
        precision: Precision = "auto",
        batch_tokens: int | None = None,
        context: int | None = None,
        batch_size: Any = None,
        max_batch_size: Any = None,
    ) -> None:
        """`context` is how many tokens are seen at most; the harness's batch sizes are taken and mean nothing here.

        Raises MissingError or ArtifactError where files are absent or do not fit together.
        """
        super().__init__()
        self._name = name_of(Path(pretrained))
        self._subject = Subject.load(
            Path(pretrained), context=context, device=device, precision=precision, batch_tokens=batch_tokens
        )
        self._device = self._subject.model.device
        self._chats: dict[str, list[int]] = {}
        """Contexts that were rendered as chats, and their ids."""

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """For each (context, continuation) the summed log-probability, and whether greedy decoding gives it."""
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(request.args[0], []).append(number)
        questions, asked, cut = list[Question](), list[list[int]](), 0
        for context, numbers in groups.items():
            question, shortened = self._question(context, [requests[number].args[1] for number in numbers])
            cut += shortened
            for part in _parts(question, self._subject.batch_tokens):
                questions.append(replace(question, choices=question.choices[part], skips=question.skips[part]))
                asked.append(numbers[part])
        if cut:
            _log.warning(
                "%d of %d contexts were cut from the left to %d tokens", cut, len(groups), self._subject.context
            )
        scores = choice_scores(self._subject.model, questions, batch_tokens=self._subject.batch_tokens)
        found: dict[int, tuple[float, bool]] = {}
        for numbers, score in zip(asked, scores, strict=True):
            found |= zip(numbers, zip(score.log_probs.tolist(), score.greedy.tolist(), strict=True), strict=True)
        return [self._kept("loglikelihood", request, found[number]) for number, request in enumerate(requests)]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """The log-probability of each whole text, from its start."""
        tokenizer = self._subject.tokenizer
        encoded = tokenizer.encode_batch([request.args[0] for request in requests])
        documents = Documents.of([[tokenizer.specials.end_of_text, *ids] for ids in encoded])
        scored = document_log_probs(
            self._subject.model, documents, context=self._subject.context, batch_tokens=self._subject.batch_tokens
        )
        pairs = zip(requests, scored.sums.tolist(), strict=True)
        return [self._kept("loglikelihood_rolling", request, total) for request, total in pairs]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """What follows each context, up to the first of its `until` strings; greedy unless a request says otherwise."""
        samplings = [_sampling(request.args[1]) for request in requests]
        prompts = [
            self._prompt(request.args[0], sampling.max_tokens)
            for request, sampling in zip(requests, samplings, strict=True)
        ]
        done = dict(complete_all(self._subject.engine, prompts, samplings=samplings))
        return [self._kept("generate_until", request, done[number].text) for number, request in enumerate(requests)]

    def apply_chat_template(self, chat_history: list[Message], add_generation_prompt: bool = True) -> str:
        """The conversation as text; without `add_generation_prompt` its last turn is left open, to be gone on with."""
        tokenizer = self._subject.tokenizer
        if add_generation_prompt:
            ids = render_prompt(chat_history, tokenizer)
        else:
            ids = render(chat_history, tokenizer).ids
            ids = ids[: len(ids) - 1 - ids[::-1].index(tokenizer.specials.im_end)]
        text = tokenizer.decode(ids)
        self._chats[text] = ids
        return text

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The one chat format there is, where one is wanted."""
        return CHAT_TEMPLATE if chat_template else None

    @property
    def tokenizer_name(self) -> str:
        """What the harness tells caches of requests apart by."""
        return f"minimind-{self._name}"

    def get_model_info(self) -> dict[str, Any]:
        """What the harness writes into its results."""
        model = self._subject.model
        count = sum(parameter.numel() for parameter in model.parameters())
        return {"model_name": self._name, "model_num_parameters": count, "model_dtype": str(self._subject.dtype)}

    def _question(self, context: str, continuations: Sequence[str]) -> tuple[Question, bool]:
        """The question of a context, and whether it was cut. Blanks at its end belong to what follows, as there."""
        tokenizer, most = self._subject.tokenizer, self._subject.context
        if (chat := self._chats.get(context)) is not None:
            question = continue_ids(chat, tokenizer.encode_batch(continuations), max_tokens=most)
            return question, len(question.prefix) < len(chat)
        bare = context.rstrip()
        blanks = context[len(bare) :]
        return encode_question(tokenizer, bare, [blanks + one for one in continuations], max_tokens=most)

    def _prompt(self, context: str, max_tokens: int) -> list[int]:
        """The ids of a context, cut from the left where the answer would find no room."""
        tokenizer, room = self._subject.tokenizer, self._subject.context - max_tokens
        if room < 1:
            raise ConfigError(
                f"lm-eval: a task wants {max_tokens} new tokens (`max_gen_toks`) and the model sees "
                f"{self._subject.context} at once, which leaves no room for a prompt"
            )
        chat = self._chats.get(context)
        ids = [tokenizer.specials.end_of_text, *tokenizer.encode(context)] if chat is None else chat
        return ids[-room:]

    def _kept(self, what: str, request: Instance, answer: Any) -> Any:
        """The answer, which the harness's cache has heard of."""
        self.cache_hook.add_partial(what, request.args, answer)
        return answer


def _parts(question: Question, batch_tokens: int) -> Iterator[slice]:
    """The choices in runs that fit into a batch: some tasks ask for thousands of continuations of nothing."""
    room = batch_tokens - len(question.prefix)
    first, used = 0, 0
    for number, choice in enumerate(question.choices):
        if used and used + len(choice) > room:
            yield slice(first, number)
            first, used = number, 0
        used += len(choice)
    yield slice(first, len(question.choices))


def _sampling(told: Mapping[str, Any]) -> Sampling:
    """A request's settings as ours."""
    given: dict[str, Any] = dict(normalize_gen_kwargs(dict(told)))
    values = {
        "stop": tuple(word for word in given.pop("until") if word),
        "max_tokens": given.pop("max_gen_toks"),
        "temperature": given.pop("temperature", 0.0) if given.pop("do_sample") else 0.0,
        "top_p": 1.0,
    }
    values |= {name: given.pop(name) for name in _SAMPLING if name in given}
    given.pop("temperature", None)
    if given:
        _log.warning("lm-eval: generation settings that mean nothing here: %s", ", ".join(sorted(given)))
    return Sampling.parse(values, origin="lm-eval's generation_kwargs")
