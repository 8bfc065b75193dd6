"""The published chat model as MLflow's own tools load it: `mlflow.pyfunc.load_model`, `mlflow models serve`.

`write_flavor` writes what MLflow wants beside a model's files: `MLmodel` with the signature, an example, the packages
by name and version. These files go to the registry only, never into the artifact: they name the run and the time. They
name this module as the loader, so nothing is pickled, and where the model is loaded this checkout must be installed
(`--env-manager local`).

A row asks as a row of batch inference does (`minimind.infer.batch_rows`): `messages`, `question`, or `prompt` for a
text to be continued; all rows of a call the same way, since MLflow makes a table of them. Not here: streams, which
MLflow's server has not.
"""

import json
import logging
import secrets
import threading
import warnings
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minimind.artifact import prove_model
from minimind.errors import ConfigError, DataError
from minimind.infer.batch_rows import GENERATED, answered_row, ids_of, question_of
from minimind.infer.engine import Engine
from minimind.infer.generate import complete_all, load
from minimind.infer.sampling import Sampling

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.models import ModelSignature

PACKAGES = ("torch", "numpy", "safetensors", "sentencepiece", "kitoken", "tokenizers", "pydantic", "mlflow", "pandas")
"""What answering needs beside this checkout."""
MODEL_FILE = "MLmodel"
MAX_BATCH = 16
"""Rows of a call that are answered at once."""
EXAMPLE = {"messages": [{"role": "user", "content": "What does json.dumps do?"}]}
GIVEN_BACK = ("text", "reasoning", "tool_calls", "finish_reason", "prompt_tokens", "completion_tokens")
"""Of `Generated`; calls of tools as JSON, since their arguments may be anything."""


class ChatModel:
    """What MLflow calls `predict` of."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._alone = threading.Lock()  # MLflow's server predicts in threads, and an engine is of one

    def predict(self, rows: "pd.DataFrame", params: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """The answer to each row. What cannot be asked is the caller's fault, and said so (status 400)."""
        from mlflow.exceptions import MlflowException

        try:
            asked = self._questions(rows, dict(params or {}))
        except (DataError, ConfigError) as error:
            raise MlflowException.invalid_parameter_value(str(error)) from None
        answers, tokenizer = [dict[str, Any]()] * len(asked), self._engine.tokenizer
        with self._alone:
            prompts, samplings = [ids for _, ids in asked], [question.sampling for question, _ in asked]
            for index, done in complete_all(self._engine, prompts, samplings=samplings):
                question, ids = asked[index]
                row = answered_row(question, done, tokenizer, prompt_tokens=len(ids), file="", line=index + 1)
                answers[index] = {name: row[GENERATED][name] for name in GIVEN_BACK}
                answers[index]["tool_calls"] = json.dumps(answers[index]["tool_calls"], ensure_ascii=False)
        return answers

    def _questions(self, rows: "pd.DataFrame", params: dict[str, Any]) -> list[tuple[Any, list[int]]]:
        params["stop"] = tuple(params.get("stop") or ())
        if params.get("seed") is None:
            params["seed"] = secrets.randbits(63)
        sampling = Sampling.parse(params, origin="params")
        asked, context = [], self._engine.config.max_positions
        for number, row in enumerate(json.loads(rows.to_json(orient="records", force_ascii=False)), 1):
            try:
                question = question_of(_without_nothing(row), sampling, number=number)
                asked.append((question, ids_of(question, self._engine.tokenizer, context=context)))
            except (DataError, ConfigError) as error:
                raise DataError(f"row {number}: {error}") from None
        if not asked:
            raise DataError(f"there is nothing to answer; give rows such as {json.dumps(EXAMPLE)}")
        return asked


def write_flavor(directory: Path, *, run_id: str, model_id: str, size: int) -> None:
    """Write MLflow's files for a chat model of `size` bytes into `directory`, which is not there yet."""
    logging.getLogger("mlflow.pyfunc").setLevel(logging.WARNING)  # it announces what it does, over the progress bars
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow 3.17 warns of its own type hints, when it is imported
        from mlflow import pyfunc
        from mlflow.models import Model

        model = Model(run_id=run_id, model_id=model_id)
        pyfunc.save_model(
            directory,
            loader_module=__name__,
            mlflow_model=model,
            signature=_signature(),
            input_example=EXAMPLE,
            pip_requirements=[f"{name}=={_version(name)}" for name in PACKAGES],
        )
    model.model_size_bytes = size  # it counted its own files
    model.save(str(directory / MODEL_FILE))


def _load_pyfunc(path: str) -> ChatModel:
    """MLflow's entry point: the model in `path`."""
    return ChatModel(load(prove_model(Path(path)), max_batch=MAX_BATCH))


def _signature() -> "ModelSignature":
    from mlflow.models import ModelSignature
    from mlflow.types.schema import AnyType, Array, ColSpec, DataType, Object, ParamSchema, ParamSpec, Property, Schema

    optional = {"required": False}
    message = Object(
        [
            Property("role", DataType.string),
            Property("content", AnyType(), **optional),
            Property("reasoning_content", DataType.string, **optional),
            Property("name", DataType.string, **optional),
            Property("tool_calls", AnyType(), **optional),
            Property("tool_call_id", DataType.string, **optional),
        ]
    )
    inputs = [
        ColSpec(Array(message), "messages", **optional),
        ColSpec(AnyType(), "tools", **optional),
        ColSpec(DataType.string, "question", **optional),
        ColSpec(DataType.string, "prompt", **optional),
    ]
    types = {"text": DataType.string, "reasoning": DataType.string, "tool_calls": DataType.string}
    types |= {"finish_reason": DataType.string, "prompt_tokens": DataType.long, "completion_tokens": DataType.long}
    outputs = [ColSpec(types[name], name, required=name != "reasoning") for name in GIVEN_BACK]
    kinds = {float: DataType.double, int: DataType.long}
    defaults = {name: field.default for name, field in Sampling.model_fields.items() if type(field.default) in kinds}
    params = [ParamSpec(name, kinds[type(default)], default) for name, default in defaults.items()]
    params += [ParamSpec("seed", DataType.long, None), ParamSpec("stop", DataType.string, [], shape=(-1,))]
    return ModelSignature(Schema(inputs), Schema(outputs), ParamSchema(params))


def _version(package: str) -> str:
    """The installed one, without the name of its build: `+cpu` is at no registry's default place."""
    return metadata.version(package).partition("+")[0]


def _without_nothing(row: dict[str, Any]) -> dict[str, Any]:
    """A row without the columns that only other rows have."""
    return {name: value for name, value in row.items() if value is not None}
