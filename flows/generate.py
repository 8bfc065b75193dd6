"""Batch inference as a flow of its own: a file of questions in, a file of answers out. No part of the pipeline."""

import json
from typing import Annotated, Any

from prefect import flow
from pydantic import BeforeValidator, Field

from flows.parameters import Refresh, says
from flows.runner import task_runner
from minimind.infer.batch_jobs import GenerateConfig
from minimind.infer.products import Precision
from minimind.infer.sampling import Sampling
from tasks import generating
from tasks.pipeline import pipeline


def _as_list(value: Any) -> Any:
    """A list as it is or as JSON; any other text, as after `-p stop=`, is one stop string."""
    if not isinstance(value, str):
        return value
    return json.loads(value) if value.startswith("[") else [value]


Input = Annotated[str, says("The questions: a file of JSON lines, a directory, a pattern or a URL.")]
Model = Annotated[
    str, says("Who answers: chat, dpo, sft, …; models:/NAME/VERSION, models:/NAME@ALIAS, or an artifact's directory.")
]
Output = Annotated[str | None, says("A file that gets all answers at the end; else they are in the artifact only.")]
Temperature = Annotated[float, Field(ge=0, le=100), says("0 always takes the likeliest token.")]
TopK = Annotated[int, Field(ge=0), says("Keep so many likeliest tokens; 0 keeps all.")]
TopP = Annotated[float, Field(gt=0, le=1), says("Keep the likeliest tokens that reach this probability.")]
RepetitionPenalty = Annotated[float, Field(gt=0, le=100), says("Above 1, used tokens become less likely.")]
MaxTokens = Annotated[int, Field(ge=1), says("Longest answer.")]
Stop = Annotated[list[str] | None, BeforeValidator(_as_list), says("End an answer before one of these texts.")]
Seed = Annotated[int, Field(ge=0, lt=2**63), says("Same seed, same answers.")]
Device = Annotated[str, says("Where it is computed: auto, cpu, cuda or mps.")]
Weights = Annotated[Precision, says("In what the weights are kept; auto takes the fastest that the device has.")]
MaxBatch = Annotated[int, Field(ge=1), says("Answers computed at once by a process.")]
Workers = Annotated[int, Field(ge=0), says("Processes; 0 takes one for each core, and one in all on a GPU.")]


@flow(name="generate", flow_run_name="generate {model}", task_runner=task_runner())
def generate(
    input: Input,
    model: Model = "chat",
    output: Output = None,
    temperature: Temperature = 0.7,
    top_k: TopK = 0,
    top_p: TopP = 0.9,
    repetition_penalty: RepetitionPenalty = 1.0,
    max_tokens: MaxTokens = 256,
    stop: Stop = None,
    seed: Seed = 0,
    precision: Weights = "auto",
    device: Device = "auto",
    max_batch: MaxBatch = 64,
    workers: Workers = 0,
    refresh: Refresh = False,
) -> str:
    """Answer every row of a file with a model."""
    sampling = Sampling(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        repetition_penalty=repetition_penalty,
        max_tokens=max_tokens,
        stop=tuple(stop or ()),
        seed=seed,
    )
    config = GenerateConfig(
        input=input, sampling=sampling, precision=precision, device=device, max_batch=max_batch, workers=workers
    )
    with pipeline("generate", "quickstart", refresh=refresh) as run:  # its recipe says nothing here
        return run.uri_of(generating.generate(run, config, model, output=output))
