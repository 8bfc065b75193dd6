"""`minimind sweep`: a training with every combination of some settings. Parses, calls, prints."""

from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from minimind.cli.shared import INTERRUPTED, AsJson, console, local
from minimind.errors import ConfigError

if TYPE_CHECKING:
    from minimind.sweep.comparison import Comparison
    from minimind.sweep.table import Table as Rows


def sweep(
    stage: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(
            help="pretrain, sft, dpo, lora, distill, or full-pipeline; by default the training whose section is swept."
        ),
    ] = None,
    override: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("-o", "--override", help="section.key=value,value,…; may be given often."),
    ] = None,
    recipe: Annotated[str, typer.Option("--recipe", "-r", help="A recipe's name, or a TOML file.")] = "quickstart",
    data: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--data", "-d", help="A data spec's name or path; for full-pipeline."),
    ] = None,
    parameter: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("-p", "--param", help="What all points read, as name=URI: init, tokens, tokenizer, teacher."),
    ] = None,
    metric: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="What decides: a figure of the training, or stage.figure (evaluate.sft_bits_per_byte)."),
    ] = None,
    goal: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="min or max: which way it is better, for a figure of which that is not known."),
    ] = None,
    downstream: Annotated[
        bool, typer.Option("--downstream", help="For each point also run every later stage that reads what it made.")
    ] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Only say what would run, and for how long.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run a training with every combination of some settings, compare them, and point `@candidate` at the best.

    **Values.** What stands behind `=` is cut at every comma that is outside of quotes and brackets, and each piece is
    read as `-o` reads a value: as TOML, else as a word. A value that has a comma itself is put in quotes or brackets,
    and the whole in quotes for the shell: `-o 'lora.targets=["q_proj"],["q_proj","v_proj"]'`. A setting with one value
    holds for all points. Several settings give all combinations; of `sft.seed=0,1,2` the mean and spread are shown.

    **Decision.** Usual metrics: validation_bits_per_byte (pretrain), validation_loss (sft, lora), validation_accuracy
    (dpo), validation_cross_entropy (distill). The exit code is 1 if a point failed; the others run all the same.

    Examples: `minimind sweep sft -o sft.lr=1e-4,3e-4,1e-3`,
    `minimind sweep -o sft.lr=1e-4,3e-4 -o sft.seed=0,1,2 --plan`,
    `minimind sweep dpo -o dpo.beta=0.05,0.1,0.3 -p init=models:/minimind-sft/2 --metric validation_reward_margin`
    """
    flows = local("local_sweep")
    given = {"settings": override or [], "stage": stage, "recipe": recipe, "data": data, "inputs": _pairs(parameter)}
    given |= {"metric": metric, "goal": goal, "downstream": downstream}
    given = {name: value for name, value in given.items() if value not in (None, False, {})}
    if plan:
        _print_plan(flows.plan(given), as_json=as_json)
        return
    try:
        comparison, error = flows.run(given, console=Console(stderr=True) if as_json else console)
    except KeyboardInterrupt:
        Console(stderr=True).print("stopped; the same command goes on with what is missing", highlight=False)
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        best = comparison.best()
        facts = comparison.model_dump(mode="json", exclude={"results": {"__all__": {"curves"}}})
        console.print_json(data={**facts, "best": best and best.name})
    else:
        _print(comparison)
    if error:
        raise error


def _pairs(parameters: list[str] | None) -> dict[str, str]:
    for parameter in parameters or ():
        if "=" not in parameter:
            raise ConfigError(f"-p {parameter}: write it as name=value, for example -p init=models:/minimind-sft/2")
    pairs = (parameter.partition("=") for parameter in parameters or ())
    return {name.strip(): value for name, _, value in pairs}


def _print(comparison: "Comparison") -> None:
    from minimind.sweep.page import PAGE_FILE, heading, sayings, subtitle, sweep_dir
    from minimind.sweep.table import points_table, seeds_table

    console.print(f"\n[bold]{escape(heading(comparison))}[/bold]\n{escape(subtitle(comparison))}", highlight=False)
    if seeds := seeds_table(comparison):
        console.print(_table(seeds))
    console.print(_table(points_table(comparison)))
    for line in sayings(comparison):
        console.print(escape(line), highlight=False, soft_wrap=True)
    console.print(f"page     {sweep_dir(comparison.id) / PAGE_FILE}", highlight=False, soft_wrap=True)
    if comparison.mlflow:
        console.print(f"MLflow   {comparison.mlflow}   (`minimind up` shows it)", highlight=False, soft_wrap=True)


def _table(rows: "Rows") -> Table:
    table = Table(box=box.SIMPLE)
    for place, title in enumerate(rows.titles):
        table.add_column(escape(title), justify="left" if place < rows.words else "right")
    for row in rows.rows:
        table.add_row(*map(escape, row.cells), style="bold green" if row.best else "red" if row.failed else None)
    return table


def _print_plan(plan: Any, *, as_json: bool) -> None:
    """How many points, which stages would run how often, and for how long."""
    if as_json:
        console.print_json(data=_plan_facts(plan))
        return
    from minimind.data.wording import duration

    points = plan.grid.points
    console.print(f"{len(points)} points of {plan.stage}, by {plan.metric.words}", highlight=False)
    for point, steps in zip(points, plan.steps, strict=True):
        waiting = [step.label for step in steps if not step.reused]
        console.print(
            f"  {escape(point.name):32} {'run ' + ', '.join(waiting) if waiting else 'there'}", highlight=False
        )
    for name, version in plan.inputs.items():
        console.print(f"  [dim]{name} {escape(version)}[/dim]", highlight=False)
    runs, seconds = _runs(plan), [step.seconds for step in plan.waiting if step.seconds is not None]
    words = ", ".join(f"{label} {count}×" for label, count in runs.items())
    unknown = " and what is not known" if 0 < len(seconds) < len(plan.waiting) else ""
    about = f", for about {duration(sum(seconds))}{unknown}" if seconds else ""
    console.print(f"\n{words or 'nothing'} would run{about}", highlight=False)


def _plan_facts(plan: Any) -> dict[str, Any]:
    seconds = [step.seconds for step in plan.waiting]
    points = [
        {
            "name": point.name,
            "settings": point.settings,
            "stages": [
                {
                    "stage": step.label,
                    "fingerprint": step.parts.fingerprint(),
                    "reuse": step.reused,
                    "version": step.uri,
                }
                for step in steps
            ],
        }
        for point, steps in zip(plan.grid.points, plan.steps, strict=True)
    ]
    return {
        "stage": plan.stage,
        "metric": plan.metric.model_dump(mode="json"),
        "inputs": plan.inputs,
        "points": points,
        "runs": _runs(plan),
        "seconds": None if not seconds or None in seconds else round(sum(seconds), 1),
    }


def _runs(plan: Any) -> dict[str, int]:
    """Label → how many artifacts of it would be made; what points share counts once."""
    labels = [step.label for step in plan.waiting]
    return {label: labels.count(label) for label in dict.fromkeys(labels)}
