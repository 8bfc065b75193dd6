"""`minimind estimate`: what trainings will cost, before they run. Parses, calls, prints."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer
from rich import box
from rich.table import Table

from minimind.cli.shared import AsJson, console, local
from minimind.data.wording import duration
from minimind.errors import ConfigError, MiniMindError, StageError

if TYPE_CHECKING:
    from minimind.artifact import Store
    from minimind.recipe import Recipe
    from minimind.train.config import TrainConfig
    from minimind.train.forecast import Forecast

_TRAININGS = ("pretrain", "sft", "dpo", "lora", "distill")


def estimate(
    what: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(metavar="[STAGE|RECIPE]", help="A training stage, or a recipe; by default all of the recipe."),
    ] = None,
    recipe: Annotated[str, typer.Option("--recipe", "-r", help="A recipe's name, or a TOML file.")] = "quickstart",
    data: Annotated[Optional[str], typer.Option("--data", "-d", help="A data spec's name or path.")] = None,  # noqa: UP045
    override: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("-o", "--override", help="A setting to change, as section.key=value; may be given often."),
    ] = None,
    price: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option("--price", min=0.0, help="Of an hour of this machine, in any currency."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a few real steps of each training on this machine, and say what the whole of it will cost.

    Tokens per second, share of the peak (MFU), time, memory, disk, and money at a price per hour. Where rows or a model
    are not there yet, ones of the same shape stand in. Nothing is registered; the estimate stays in the store, and the
    training's summary says afterwards how long it was estimated to take, and how long it took.

    Examples: `minimind estimate`, `minimind estimate sft -o sft.epochs=2 --price 1.80`,
    `minimind estimate minimind3 --data my_data.toml --json`
    """
    from minimind.artifact import Store
    from minimind.recipe import load_recipe

    stage, recipe = _asked(what, recipe)
    settings = load_recipe(recipe, overrides=override or (), data=data)
    configs = _trainings(settings, stage)
    parameters = {"recipe": recipe, "data": data, "overrides": override}
    store = Store()
    inputs = _inputs_planned(parameters, quiet=as_json)
    forecasts = _forecasts(settings, configs, inputs, store, quiet=as_json)
    if as_json:
        console.print_json(json.dumps(_as_json(forecasts, price)))
    else:
        _print(forecasts, price)


def _asked(what: str | None, recipe: str) -> tuple[str | None, str]:
    """The stage that was asked for, if it was one, and the recipe."""
    from minimind.config import nearest
    from minimind.recipe import recipe_names

    if what is None or what in _TRAININGS:
        return what, recipe
    if what.endswith(".toml") or what in recipe_names():
        return None, what
    raise ConfigError(f"no training stage or recipe `{what}`{nearest(what, (*_TRAININGS, *recipe_names()))}")


def _trainings(recipe: "Recipe", stage: str | None) -> dict[str, "TrainConfig"]:
    """The settings of the trainings to estimate, in the order they run."""
    known = {name: getattr(recipe, name) for name in _TRAININGS if getattr(recipe, name) is not None}
    if stage is not None and stage not in known:
        raise ConfigError(f"recipe {recipe.name} has no section [{stage}]; it trains {', '.join(known)}")
    found = {name: config for name, config in known.items() if stage in (None, name)}
    if "pretrain" in found:
        found["pretrain"] = recipe.pretrain_config(recipe.tokenizer.vocab_size)
    if recipe.distill and "distill" in found:
        found["distill"] = recipe.distill.stage_config()
    return found


def _inputs_planned(parameters: Mapping[str, Any], *, quiet: bool) -> dict[str, dict[str, str]]:
    """Stage → input name → fingerprint, as the pipeline will have them; empty where the data cannot be looked at."""
    try:
        return {step.label: step.parts.inputs for step in local("local_plan").planned(dict(parameters))}
    except MiniMindError as error:
        if not quiet:
            console.print(f"[yellow]![/yellow] rows are stood in for: {error}", highlight=False, soft_wrap=True)
        return {}


def _forecasts(
    recipe: "Recipe",
    configs: Mapping[str, "TrainConfig"],
    inputs: Mapping[str, dict[str, str]],
    store: "Store",
    *,
    quiet: bool,
) -> list["Forecast"]:
    """One after the other, alone on the machine."""
    from minimind.data.spec import load_spec
    from minimind.train import estimate as measuring
    from minimind.train.forecast import keep
    from minimind.train.known_inputs import known_inputs
    from minimind.train.slots import slot

    shape = recipe.model.replace(vocab_size=recipe.tokenizer.vocab_size)
    spec, found = load_spec(recipe.data.spec), []
    for name, config in configs.items():
        if not quiet:
            console.print(f"{name}: {measuring.STEPS} steps …", highlight=False)
        fingerprints = inputs.get(name, {})
        known = known_inputs(name, config, fingerprints, store, shape=shape, spec=spec)  # type: ignore[arg-type]
        with slot(config, store.root, waiting=_refuse), tempfile.TemporaryDirectory(prefix="minimind-") as work:
            forecast = measuring.estimate(name, config, known, Path(work))  # type: ignore[arg-type]
        if fingerprints:
            keep(store.root.parent, forecast, config, fingerprints)
        found.append(forecast)
    return found


def _refuse(_: str) -> None:
    raise StageError("a training is running on this machine; an estimate beside it would be wrong")


def _as_json(forecasts: list["Forecast"], price: float | None) -> dict[str, Any]:
    stages = [
        {
            **forecast.model_dump(mode="json"),
            "seconds": round(forecast.seconds, 1),
            "disk_mb": round(forecast.disk_mb, 1),
            **({} if price is None else {"cost": round(forecast.cost(price), 4)}),
        }
        for forecast in forecasts
    ]
    total: dict[str, Any] = {
        "tokens": sum(forecast.tokens for forecast in forecasts),
        "seconds": round(sum(forecast.seconds for forecast in forecasts), 1),
        "memory_mb": max(forecast.memory_mb * forecast.processes for forecast in forecasts),
        "disk_mb": round(_disk(forecasts), 1),
    }
    if price is not None:
        total["cost"] = round(sum(forecast.cost(price) for forecast in forecasts), 4)
    return {"stages": stages, "total": total}


def _print(forecasts: list["Forecast"], price: float | None) -> None:
    columns = ["stage", "steps", "tokens", "tok/s", "MFU", "time", "memory", "disk"]
    table = Table(*columns, *([] if price is None else ["cost"]), box=box.SIMPLE)
    for forecast in forecasts:
        money = [] if price is None else [f"{forecast.cost(price):,.2f}"]
        table.add_row(
            forecast.stage,
            f"{forecast.steps:,}",
            _short(forecast.tokens),
            f"{forecast.tokens_per_second:,.0f}",
            "–" if forecast.mfu is None else f"{forecast.mfu:.0%}",
            duration(forecast.seconds),
            _short(1e6 * forecast.memory_mb) + "B" + (f" × {forecast.processes}" if forecast.processes > 1 else ""),
            _short(1e6 * forecast.disk_mb) + "B",
            *money,
        )
    total = sum(forecast.seconds for forecast in forecasts)
    if len(forecasts) > 1:
        money = [] if price is None else [f"{sum(forecast.cost(price) for forecast in forecasts):,.2f}"]
        tokens = sum(forecast.tokens for forecast in forecasts)
        table.add_section()
        table.add_row(
            "all", "", _short(tokens), "", "", duration(total), "", _short(1e6 * _disk(forecasts)) + "B", *money
        )
    console.print(table)
    for forecast in forecasts:
        if forecast.stand_ins:
            words = f"{forecast.stage}: measured with {', '.join(forecast.stand_ins)}; its own is not there yet"
            console.print(words, highlight=False, soft_wrap=True)


def _disk(forecasts: list["Forecast"]) -> float:
    """MB: every model stays, and the checkpoints of one training are there at a time."""
    return sum(one.model_mb for one in forecasts) + max((one.checkpoints_mb for one in forecasts), default=0.0)


def _short(value: float) -> str:
    """`1.3 M`."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.1f} {unit}" if value < 100 * size else f"{value / size:.0f} {unit}"
    return f"{value:.0f} "
