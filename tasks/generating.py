"""Batch inference as a task: which model answers, and the copy of the answers that somebody asked for."""

from pathlib import Path

from minimind.artifact import Artifact
from minimind.config import nearest
from minimind.errors import ConfigError, MissingError
from minimind.evaluate.config import MODEL_NAMES
from minimind.infer.batch import GENERATE, GenerateConfig, copy_answers
from minimind.model.weights import WEIGHTS_FILE
from tasks.registry import CANDIDATE
from tasks.stage import Pipeline

SHORT_NAMES = ("chat", *MODEL_NAMES)


def generate(run: Pipeline, config: GenerateConfig, model: str, *, output: str | None = None) -> Artifact:
    """Answer every row of a file; `output` gets all answers in one file, at the end and at once."""
    target = None if output is None else _target(output, config.input)
    run.context = {name: fact for name, fact in run.context.items() if name not in ("recipe", "data")}  # none is read
    made = run.stage(GENERATE, config, {"model": _take_model(run, model)})
    if target and not run.planning:
        copy_answers(made.dir, target)
        run.display.finished("answers", str(target))
    elif not run.planning:
        run.display.finished("answers", str(made.dir / "answers-*.jsonl"))
    return made


def _take_model(run: Pipeline, model: str) -> Artifact:
    """The artifact of a model: a short name is the newest of its kind."""
    if model in SHORT_NAMES:
        model = f"models:/minimind-{model}@{CANDIDATE}"
    elif not model.startswith("models:/") and not Path(model).expanduser().is_dir():
        raise MissingError(f"no model `{model}`{nearest(model, SHORT_NAMES)}; or give a models:/ URI or a directory")
    artifact = run.take(model)
    if not (artifact.dir / WEIGHTS_FILE).exists():
        raise ConfigError(f"{model} is a {artifact.kind}, not a model")
    return artifact


def _target(output: str, input_: str) -> Path:
    """Where the copy goes. Refused before anything runs, because the answers are dear."""
    target = Path(output).expanduser().resolve()
    if target.suffix in (".gz", ".zst"):
        raise ConfigError(f"output = {output}: is written plain; give it a name that ends with .jsonl")
    if target.is_dir():
        raise ConfigError(f"output = {output}: is a directory; give a file in it")
    if not target.parent.is_dir():
        raise MissingError(f"output = {output}: there is no directory {target.parent}; make it")
    if target == Path(input_).expanduser().resolve():
        raise ConfigError(f"output = {output}: is the input; give another file")
    return target
