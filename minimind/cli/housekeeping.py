"""`minimind fsck`, `gc`, `pin`, `unpin`, `sync`: the store proven, made smaller, told of. Parses, calls, prints."""

from collections import Counter
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated, Optional

import typer
from rich.table import Table

from minimind.cli.inspect import find
from minimind.cli.report import print_verdict, verdict_facts
from minimind.cli.shared import AsJson, console, local
from minimind.data.wording import size
from minimind.errors import ConfigError, GateError

if TYPE_CHECKING:
    from minimind.housekeeping.removal import Plan

ArtifactArgument = Annotated[str, typer.Argument(help="A label (sft, tokens-chat, …), a models:/ URI, or a directory.")]


def fsck(
    repair: Annotated[bool, typer.Option("--repair", help="Mend what can be; the rest is put aside.")] = False,
    as_json: AsJson = False,
) -> None:
    """Prove every artifact and note of the store; exit code 1 if one is damaged, and for --repair if one stays so.

    With --repair nothing may run on the store. What is registered whole is fetched, what nobody sealed and what only
    a run can make again goes to `quarantine/` in the store. Nothing is deleted.

    Examples: `minimind fsck`, `minimind fsck --repair`, `minimind fsck --json`
    """
    if not local("fsck").fsck(console, as_json=as_json, repair=repair):
        raise typer.Exit(1)


def gc(
    yes: Annotated[bool, typer.Option("--yes", help="Remove it. Without, it is only shown.")] = False,
    unfinished_days: Annotated[
        float, typer.Option(min=0, help="Leave what was broken off in so many days, for a resume.")
    ] = 1.0,
    as_json: AsJson = False,
) -> None:
    """Show what no alias in the registry and no pin needs; with --yes remove it.

    Kept is what has an alias (`@candidate`, `@champion`, your own) or a pin, and all that it was made of.

    Examples: `minimind gc`, `minimind gc --yes`, `minimind gc --unfinished-days 0 --json`
    """
    from minimind.artifact import Store
    from minimind.housekeeping.removal import remove

    flows, store = local(), Store()
    with store.alone() if yes else nullcontext():  # else a pipeline could seal, or need, what the plan lets go of
        plan = flows.removal(unfinished_days=unfinished_days)
        gone = list(remove(store, plan.leftovers)) if yes else []
    if as_json:
        console.print_json(data={**plan.model_dump(mode="json"), "removed": [one.path for one in gone]})
        return
    _print_plan(plan, removed=yes)


def pin(artifact: ArtifactArgument) -> None:
    """Keep an artifact, and all it was made of, from `gc`. Example: `minimind pin models:/minimind-sft/3`"""
    from minimind.artifact import Store
    from minimind.housekeeping import pins

    found = find(artifact)
    pins.pin(found, Store())
    console.print(f"pinned {found.label} {found.fingerprint}", highlight=False)


def unpin(artifact: ArtifactArgument) -> None:
    """Take a pin away again. Example: `minimind unpin models:/minimind-sft/3`"""
    from minimind.artifact import Store
    from minimind.housekeeping import pins

    found = find(artifact)
    pins.unpin(found, Store())
    console.print(f"no longer pinned: {found.label} {found.fingerprint}", highlight=False)


def promote(
    model: Annotated[str, typer.Argument(help="A registry URI (models:/…), a directory, or chat, dpo, sft, lora, …")],
    force: Annotated[bool, typer.Option("--force", help="Also where the gate refuses it; that is recorded.")] = False,
    reason: Annotated[str, typer.Option(help="Why it is forced.")] = "",
    recipe: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--recipe", "-r", help="Whose [gate] counts, in the place of the one the model was made with."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Point `@champion` at a model if the gate lets it past; exit code 3 where it does not.

    Examples: `minimind promote dpo`, `minimind promote models:/minimind-chat/2 --force --reason "for the demo"`
    """
    if reason and not force:
        raise ConfigError("--reason says why a model is forced; give it together with --force")
    done = local().promote(model, force=force, reason=reason, recipe=recipe)
    if as_json:
        facts = {"name": done.name, "before": done.before, "champion": done.now, "gate": done.gate}
        console.print_json(data=facts | {"verdict": verdict_facts(done.verdict)})
    else:
        print_verdict(done.verdict)
        console.print(f"by [gate] of {done.gate}", highlight=False, markup=False)
    if done.verdict.state == "refused":
        stays = f"stays {done.now}" if done.now else "is still nothing"
        raise GateError(f"the gate refuses it; @champion of {done.name} {stays}. --force promotes it all the same")
    if not as_json:
        before = f"before it was {done.before}" if done.before else "the first of its name"
        words = "it was already" if done.before == done.now else before
        console.print(f"@champion is {done.now}; {words}", highlight=False)


def sync() -> None:
    """Send MLflow what it missed while it was down. Example: `minimind sync`"""
    local().sync(console)


def _print_plan(plan: "Plan", *, removed: bool) -> None:
    if plan.leftovers:
        table = Table("what", "stage", "size", "days old", "below artifacts/")
        for leftover in sorted(plan.leftovers, key=lambda one: -one.bytes):
            table.add_row(leftover.kind, leftover.label, size(leftover.bytes), f"{leftover.days:.1f}", leftover.path)
        console.print(table)
    reasons = Counter(plan.kept.values())
    for reason, count in reasons.most_common():
        console.print(f"kept: {count} artifact{'s' * (count > 1)} for {reason}", highlight=False)
    words = "freed" if removed else "could be freed"
    console.print(f"{size(plan.bytes_freed)} {words}, {size(plan.bytes_kept)} kept", highlight=False)
    if plan.leftovers and not removed:
        console.print("`minimind gc --yes` removes it", highlight=False)
