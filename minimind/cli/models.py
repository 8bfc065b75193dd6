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
MinP = Annotated[float, typer.Option(help="Keep tokens at least so many times as likely as the likeliest.")]
RepetitionPenalty = Annotated[float, typer.Option(help="Above 1, used tokens become less likely.")]
MaxTokens = Annotated[int, typer.Option(help="Longest answer.")]
Stop = Annotated[Optional[list[str]], typer.Option(help="End an answer before this text.")]  # noqa: UP045
Seed = Annotated[Optional[int], typer.Option(help="Same seed, same answers.")]  # noqa: UP045
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
PrecisionOption = Annotated[str, typer.Option("--precision", help="auto, fp32, bf16, or on a CPU int8 and int4.")]


def chat(
    model: ModelArgument = "chat",
    system: System = None,
    temperature: Temperature = 0.7,
    top_k: TopK = 0,
    top_p: TopP = 0.9,
    min_p: MinP = 0.0,
    repetition_penalty: RepetitionPenalty = 1.0,
    max_tokens: MaxTokens = 256,
    stop: Stop = None,
    seed: Seed = None,
    device: Device = "auto",
    precision: PrecisionOption = "auto",
) -> None:
    """Talk to a model in the terminal.

    Examples: `minimind chat`, `minimind chat sft`, `minimind chat models:/minimind-sft@candidate --temperature 0`
    """
    from minimind.infer.chat import chat as talk
    from minimind.infer.engine import Engine
    from minimind.infer.generate import load

    sampling = _sampling(temperature, top_k, top_p, min_p, repetition_penalty, max_tokens, stop, seed)

    def load_model(name: str) -> Engine:
        return load(local().find_model(name), device, precision=precision)

    talk(load_model(model), sampling=sampling, system=system or "", console=console, load=load_model)


def generate(
    prompt: Annotated[str, typer.Argument(help="What to go on from; `-` reads standard input.")],
    model: Annotated[str, typer.Option("--model", "-m", help="As for `chat`.")] = "chat",
    raw: Annotated[bool, typer.Option("--raw", help="Continue the text itself, without the chat format.")] = False,
    system: System = None,
    temperature: Temperature = 0.7,
    top_k: TopK = 0,
    top_p: TopP = 0.9,
    min_p: MinP = 0.0,
    repetition_penalty: RepetitionPenalty = 1.0,
    max_tokens: MaxTokens = 256,
    stop: Stop = None,
    seed: Seed = None,
    device: Device = "auto",
    precision: PrecisionOption = "auto",
    as_json: AsJson = False,
) -> None:
    """Answer one prompt.

    Examples: `minimind generate "What does json.dumps do?"`, `minimind generate --raw -m pretrain "def "`
    """
    from minimind.infer.generate import complete, load, prompt_ids, stream_text

    sampling = _sampling(temperature, top_k, top_p, min_p, repetition_penalty, max_tokens, stop, seed)
    engine = load(local().find_model(model), device, precision=precision)
    text = sys.stdin.read() if prompt == "-" else prompt
    ids = prompt_ids(engine.tokenizer, text, system=system or "", raw=raw)
    if as_json:
        done = complete(engine, ids, sampling=sampling)
        answer = {"text": done.text, "tokens": done.tokens, "finish_reason": done.finish_reason}
        console.print_json(json.dumps(answer, ensure_ascii=False))
        return
    for piece in stream_text(engine, ids, sampling=sampling):
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")


def _sampling(
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
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
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "max_tokens": max_tokens,
        "stop": tuple(stop or ()),
        "seed": seed,
    }
    return Sampling.parse(values, origin="options")
