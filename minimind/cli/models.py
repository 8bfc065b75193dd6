"""`minimind chat` and `minimind generate`: a model's answers in the terminal."""

import json
import sys
from typing import Annotated, Any, Optional

import typer

from minimind.cli.shared import AsJson, console, local

ModelArgument = Annotated[
    str, typer.Argument(help="chat (the published one), dpo, sft, …; a models:/ URI; or a directory.")
]

System = Annotated[Optional[str], typer.Option(help="A system prompt.")]  # noqa: UP045
Temperature = Annotated[float, typer.Option(help="0 always takes the likeliest token.")]
TopK = Annotated[int, typer.Option(help="Keep so many likeliest tokens; 0 keeps all.")]
TopP = Annotated[float, typer.Option(help="Keep the likeliest tokens that reach this probability.")]
RepetitionPenalty = Annotated[float, typer.Option(help="Above 1, used tokens become less likely.")]
MaxTokens = Annotated[int, typer.Option(help="Longest answer.")]
Stop = Annotated[Optional[list[str]], typer.Option(help="End an answer before this text.")]  # noqa: UP045
Seed = Annotated[Optional[int], typer.Option(help="Same seed, same answers.")]  # noqa: UP045
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]


def chat(
    model: ModelArgument = "chat",
    system: System = None,
    temperature: Temperature = 0.7,
    top_k: TopK = 0,
    top_p: TopP = 0.9,
    repetition_penalty: RepetitionPenalty = 1.0,
    max_tokens: MaxTokens = 256,
    stop: Stop = None,
    seed: Seed = None,
    device: Device = "auto",
) -> None:
    """Talk to a model in the terminal.

    Examples: `minimind chat`, `minimind chat sft`, `minimind chat models:/minimind-sft@candidate --temperature 0`
    """
    from minimind.infer.chat import chat as talk
    from minimind.infer.generate import load

    sampling = _sampling(temperature, top_k, top_p, repetition_penalty, max_tokens, stop, seed)
    talk(load(local().find_model(model), device=device), sampling=sampling, system=system or "", console=console)


def generate(
    prompt: Annotated[str, typer.Argument(help="What to go on from; `-` reads standard input.")],
    model: Annotated[str, typer.Option("--model", "-m", help="As for `chat`.")] = "chat",
    raw: Annotated[bool, typer.Option("--raw", help="Continue the text itself, without the chat format.")] = False,
    system: System = None,
    temperature: Temperature = 0.7,
    top_k: TopK = 0,
    top_p: TopP = 0.9,
    repetition_penalty: RepetitionPenalty = 1.0,
    max_tokens: MaxTokens = 256,
    stop: Stop = None,
    seed: Seed = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Answer one prompt.

    Examples: `minimind generate "What does json.dumps do?"`, `minimind generate --raw -m pretrain "def "`
    """
    from minimind.infer.generate import complete, load, prompt_ids, stream_text

    sampling = _sampling(temperature, top_k, top_p, repetition_penalty, max_tokens, stop, seed)
    loaded = load(local().find_model(model), device=device)
    text = sys.stdin.read() if prompt == "-" else prompt
    ids = prompt_ids(loaded.tokenizer, text, system=system or "", raw=raw)
    if as_json:
        done = complete(loaded.model, loaded.tokenizer, ids, sampling=sampling)
        answer = {"text": done.text, "tokens": done.tokens, "finish_reason": done.finish_reason}
        console.print_json(json.dumps(answer, ensure_ascii=False))
        return
    for piece in stream_text(loaded.model, loaded.tokenizer, ids, sampling=sampling):
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")


def _sampling(
    temperature: float,
    top_k: int,
    top_p: float,
    repetition_penalty: float,
    max_tokens: int,
    stop: list[str] | None,
    seed: int | None,
) -> Any:
    from minimind.infer.sampling import Sampling

    values = {
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "repetition_penalty": repetition_penalty,
        "max_tokens": max_tokens,
        "stop": tuple(stop or ()),
        "seed": seed,
    }
    return Sampling.parse(values, origin="options")
