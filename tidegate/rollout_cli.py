"""The part of the `tidegate` command about rollouts. While Airflow is away, all of it works but a new rollout."""

from __future__ import annotations

import getpass
import json as jsonlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.live import Live

from tidegate.errors import DataError
from tidegate.explained import explained

if TYPE_CHECKING:
    from rich.console import RenderableType

    from tidegate.clients.ledger import Ledger
    from tidegate.clients.records import Rollout
    from tidegate.stack.config import StackConfig

rollouts = typer.Typer(help="List rollouts, show one, export one.", no_args_is_help=False, invoke_without_command=True)
Name = Annotated[str, typer.Argument(help="The delivery.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Id = Annotated[str, typer.Argument(help="A rollout's id or its end; or a delivery, or a version: its newest rollout.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands to the `tidegate` command."""
    app.add_typer(rollouts, name="rollouts")
    for command in (rollout, pause, resume, promote, abort, rollback, simulate):
        app.command()(command)


@rollouts.callback()
def listed(
    context: typer.Context,
    delivery: Annotated[str | None, typer.Option(help="Only of this delivery.")] = None,
    limit: Annotated[int, typer.Option(help="So many, the newest.", min=1)] = 20,
    json: AsJson = False,
) -> None:
    """List the newest rollouts."""
    if context.invoked_subcommand is not None:
        return
    from tidegate.rollout.show import table

    with explained():
        found = _ledger(_cfg()).rollouts(delivery, limit)
    if json:
        print(jsonlib.dumps([one.model_dump(mode="json") for one in found], indent=2))
    elif not found:
        Console().print("there is no rollout yet")
    else:
        Console().print(table(found))


@rollouts.command()
def show(
    which: Id,
    watch: Annotated[bool, typer.Option("--watch", help="Go on showing it until it has ended.")] = False,
    json: AsJson = False,
) -> None:
    """Show where a rollout stands: its stages, the evidence, its log."""
    with explained():
        ledger = _ledger(_cfg())
        one = _rollout(ledger, which)
        if json:
            events = [event.model_dump(mode="json") for event in ledger.events(one.delivery, one.id)]
            print(jsonlib.dumps({"rollout": one.model_dump(mode="json"), "events": events}, indent=2))
            return
        if not watch:
            Console().print(_drawn(ledger, one))
            return
        with Live(_drawn(ledger, one), console=Console(), auto_refresh=False) as live:
            while one.outcome is None:
                time.sleep(1.0)  # the ledger announces nothing
                one = _rollout(ledger, one.id)
                live.update(_drawn(ledger, one), refresh=True)


@rollouts.command()
def export(
    which: Id,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Where to write; default: <candidate>.csv.")] = None,
) -> None:
    """Write a rollout's counters from Prometheus as a series that `tidegate simulate` reads."""
    from tidegate import simulate as simulation
    from tidegate.stack import hands

    with explained():
        cfg = _cfg()
        ledger = _ledger(cfg)
        one = _rollout(ledger, which)
        begun = [event.at.timestamp() for event in ledger.events(one.delivery, one.id) if event.kind == "shifted"]
        if not begun:
            raise DataError(f"{one.id} never gave its candidate a share of traffic; there is nothing to export")
        end = (one.ended_at or one.read_at or one.started_at).timestamp()
        names = [name for name in (one.candidate, one.champion) if name]
        scrapes = hands.metrics(cfg).between(names, begun[0], end)
        staged = [(sum(scrape.at >= at for at in begun) - 1, scrape) for scrape in scrapes]
        path = out or Path(f"{one.candidate}.csv")
        rows = simulation.write(path, one.id, [pair for pair in staged if pair[0] >= 0], one.candidate, one.champion)
    Console().print(f"{path}: {rows} rows of {len(scrapes)} scrapes", highlight=False, soft_wrap=True)


def rollout(name: Name, to: Annotated[int, typer.Option("--to", help="The version to roll out.", min=1)]) -> None:
    """Roll a registered version out, through its stages, watched: starts rollout__<delivery> in Airflow."""
    from tidegate.bundle import load
    from tidegate.lake import Lake
    from tidegate.stack import hands

    with explained():
        cfg = _cfg()
        candidate, ledger = f"{name}-v{to}", _ledger(cfg)
        for past in ledger.rollouts(name):
            if past.outcome is None and past.candidate == candidate:
                _say(f"{candidate} is being rolled out already: tidegate rollouts show {past.id}")
                return
        if hands.hands(cfg, name).traffic.read(name).champion == candidate:
            _say(f"{candidate} is the champion already: there is nothing to roll out")
            return
        load(Lake(f"file://{cfg.paths.lake}"), name, to)  # says so where it was never bundled
        tries = sum(past.candidate == candidate for past in ledger.rollouts(name, limit=1000))
        run = hands.airflow(cfg).trigger(f"rollout__{name}", {"version": to}, run_id=f"cli__{candidate}__{tries + 1}")
        _say(f"{run.dag_id} {run.run_id} is {run.state}: tidegate rollouts show {name} --watch")


def pause(name: Name) -> None:
    """Let no stage pass for now; the watch, the alarms and the deadline go on."""
    _ask(name, "pause", "no stage passes until `tidegate resume`; its deadline does not wait")


def resume(name: Name) -> None:
    """Let stages pass again."""
    _ask(name, "resume", "goes on")


def promote(name: Name) -> None:
    """Do not wait for the judge: the rest of the stages pass at once, on your word, which is recorded."""
    _ask(name, "promote", "goes to 100% without waiting for the judge; an alarm still takes it back")


def abort(name: Name) -> None:
    """Give the champion all traffic at once; Airflow, or `tidegate rollback`, does the rest of the way back."""
    from tidegate.rollout import actions
    from tidegate.stack import hands

    with explained():
        mine = hands.hands(_cfg(), name)
        opened = _open(mine.ledger.rollouts(name))
        if opened is None:
            split = actions.abort(mine.traffic, name, f"{_who()}: abort") if mine.traffic.read(name).on_trial else None
            _say(f"no rollout of {name} is open" + ("; a stray candidate lost its traffic" if split else ""))
            return
        split = actions.abort_rollout(mine, opened.id, name, _who(), "aborted by hand")
        mine.proxy.confirm(name, split.weights, split.mirrors)
        _say(f"{split.champion} has all traffic; {opened.candidate} has none")


def rollback(
    name: Name,
    to: Annotated[int | None, typer.Option("--to", help="Go back to this version; default: the one before.")] = None,
    reason: Annotated[str, typer.Option(help="Why, for the record.")] = "asked for at a terminal",
) -> None:
    """Go all the way back: a running rollout's candidate goes, or else the champion gives way to the one before it."""
    from tidegate.rollout import actions
    from tidegate.stack import hands

    with explained():
        mine = hands.hands(_cfg(), name)
        opened = _open(mine.ledger.rollouts(name))
        present = mine.traffic.read(name)
        rollback_id = f"cli:{opened.id if opened else f'{present.champion}@{present.revision}'}"
        outcome = actions.rollback(mine, name, rollback_id, _who(), reason, version=to)
        _say(outcome.sentence)


def simulate(
    delivery: Annotated[Path, typer.Argument(help="The delivery's file: its rollout section is what judges.")],
    series: Annotated[Path, typer.Argument(help="CSV of cumulative counters, many runs in one file.")],
    json: AsJson = False,
) -> None:
    """Replay a plan and the judge over recorded metrics: what would it have done last Tuesday?

    Columns: run, time_s, version (champion or candidate), requests_total, errors_total, latency_le_<ms> ...,
    latency_le_inf; optionally stage (position in the plan). A series at one weight is judged as one stage. With --json
    it prints an object per run, a line each.
    """
    from tidegate import simulate as simulation
    from tidegate.delivery import read_delivery

    with explained():
        spec = read_delivery(delivery).rollout
        replays = [simulation.replay(run, spec) for run in simulation.read(series)]
    if json:
        for one in replays:  # an object a line, so that a thousand runs can be read as they come
            print(jsonlib.dumps(one.as_json()))
        return
    Console().print(_replayed(replays))


def _replayed(replays: list[Any]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), show_footer=True)
    counted = ", ".join(
        f"{sum(one.outcome == outcome for one in replays)} {outcome.replace('_', ' ')}"
        for outcome in ("promoted", "rolled_back", "held")
    )
    table.add_column("run", footer=f"{len(replays)} run{'s' * (len(replays) != 1)}")
    table.add_column("outcome", footer=counted)
    table.add_column("decided", justify="right")
    table.add_column("candidate's requests", justify="right")
    table.add_column("reason", overflow="fold", ratio=1)
    colours = {"promoted": "green", "rolled_back": "red", "held": "yellow"}
    for one in replays:
        at = "-" if one.decided_at_s is None else f"{one.decided_at_s:.0f} s"
        outcome = f"[{colours[one.outcome]}]{one.outcome.replace('_', ' ')}[/]"
        table.add_row(one.run, outcome, at, f"{one.candidate_requests:.0f}", Text(one.reason))
    return table


def _ask(name: str, wish: Any, means: str) -> None:
    with explained():
        ledger = _ledger(_cfg())
        opened = _open(ledger.rollouts(name))
        if opened is None:
            raise DataError(f"no rollout of {name} is open; start one with: tidegate rollout {name} --to VERSION")
        ledger.ask(opened.id, wish, _who())
        ledger.log(name, f"asked_to_{wish}", _who(), rollout_id=opened.id)
        _say(f"{opened.candidate}: {means}")


def _drawn(ledger: Ledger, one: Rollout) -> RenderableType:
    from tidegate.rollout.show import detail

    return detail(one, ledger.lease(one.delivery), ledger.events(one.delivery, one.id))


def _rollout(ledger: Ledger, which: str) -> Rollout:
    known = ledger.rollout(which)
    if known is not None:
        return known
    every = ledger.rollouts(limit=1000)
    found = [one for one in every if which in (one.delivery, one.candidate)][:1]
    found = found or [one for one in every if one.id.endswith(which)]
    if len(found) != 1:
        what = "is not known" if not found else f"fits {len(found)} rollouts"
        raise DataError(f"{which!r} {what}; `tidegate rollouts` lists the ids")
    return found[0]


def _open(found: list[Rollout]) -> Rollout | None:
    from tidegate.clients.records import open_of

    return open_of(found)


def _cfg() -> StackConfig:
    from tidegate.stack.config import StackConfig

    return StackConfig.load()


def _ledger(cfg: StackConfig) -> Ledger:
    from tidegate.stack import hands

    return hands.ledger(cfg)


def _who() -> str:
    return f"{getpass.getuser()} at a terminal"


def _say(sentence: str) -> None:
    Console().print(sentence, highlight=False, soft_wrap=True)
