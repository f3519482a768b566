"""`sealstream demo`: the whole pipe on generated customers."""

from __future__ import annotations

import json
import secrets
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click

from .. import settings
from ..demo import account, story
from ..demo.people import Person
from ..errors import Fatal
from ..events import Topic

SEED = 7
PARTITIONS = 4
LIMIT_SECONDS = 180
_WIDE = 108


@click.command()
@click.option("--events", "count", default=20_000, show_default=True, type=click.IntRange(100, 1_000_000))
@click.option("--customers", default=500, show_default=True, type=click.IntRange(3, 100_000))
@click.option("--seed", default=SEED, show_default=True, help="Of the story: another seed, other customers.")
@click.option("--json", "as_json", is_flag=True, help="Print the account, the alerts and the figures as JSON.")
@click.option("--keep-log", type=click.Path(path_type=Path, dir_okay=False), help="Keep the worker's log there.")
@click.pass_context
def demo(ctx: click.Context, count: int, customers: int, seed: int, as_json: bool, keep_log: Path | None) -> None:
    """Send generated customers through the whole pipe, and show what came out.

    Three simulated hours of a shop: some events are invalid, one source goes wild and one falls silent. With
    SEALSTREAM_KAFKA it runs on that broker, in topics with a prefix of their own that are left there; else on a small
    broker inside of this process. Exit code 1 if the account does not balance.

    \b
    Examples:
      sealstream demo
      SEALSTREAM_KAFKA=localhost:9092 sealstream demo --events 100000 --customers 5000
    """
    began = time.monotonic()
    with ExitStack() as stack:
        config, env, log = _prepare(stack, keep_log)
        _say("starting a worker: protect, identify, watch")
        took = _run(config, env, log, count, customers, seed)
        seen = _see(config)
    figures = {"events_per_second": round(count / took), "seconds": round(time.monotonic() - began, 1)}
    balance = seen.account()
    if as_json:
        click.echo(
            json.dumps({"account": _plain(balance), "alerts": seen.alerts, "reasons": seen.reasons(), **figures})
        )
    else:
        _show(seen, balance, story.heroine(seed, customers), figures, config.topic_prefix)
    ctx.exit(0 if balance.balanced and balance.raw == count else 1)


def _prepare(stack: ExitStack, keep_log: Path | None) -> tuple[settings.Settings, dict[str, str], Path]:
    """Broker, topics and keys; all of it but topics on a broker that was given goes when the demo ends."""
    from .. import wiring
    from ..adapters import brokers, keyfile

    given = settings.load()
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sealstream-demo-")))
    broker = stack.enter_context(brokers.find_or_start(given.kafka, need_real=False, say=_say))
    _say(f"broker: {broker.kind.value} at {broker.bootstrap}")
    own: dict[str, Any] = {
        "kafka": broker.bootstrap,
        "topic_prefix": f"demo-{secrets.token_hex(3)}." if given.kafka else "",
        "partitions": PARTITIONS,
        "state_dir": directory / "state",
        "key_file": directory / "keys.json",
        "kek": "file",
        "http": "off",
        "log_format": "console",
        "compression": "zstd",  # the embedded broker keeps 5 MB of each partition
        "session_seconds": 6.0,  # who ends the worker to see what happens does not wait for long
        "watch_window_seconds": 60.0,
        "watch_idle_seconds": 2.0,
    }
    config = settings.load(**own)
    assert config.key_file is not None
    keyfile.create(config.key_file, wiring.throw_away_ring())
    wiring.apply_topics(config, wiring.wanted_topics(config, append_time=False))
    env = {f"{settings.PREFIX}{name.upper()}": str(value) for name, value in own.items()}
    return config, env, keep_log or directory / "worker.log"


def _run(config: settings.Settings, env: dict[str, str], log: Path, count: int, customers: int, seed: int) -> float:
    """Produce and wait for the legs; return the seconds from the first event to the last one's protected form."""
    from .. import wiring
    from ..adapters import schema_files
    from ..demo import scene

    schemas = {c.schema.name: c for c in schema_files.load(config.schema_dir).schemas}
    end_ms = int(time.time() * 1000) // 60_000 * 60_000
    told = story.events(seed, count, customers, end_ms, scene.avro_encoder(schemas))
    try:
        with wiring.positions(config) as positions, scene.worker(env, log) as process:
            with _bar(count, "events sent     ") as step:
                began = time.monotonic()
                scene.produce(config, told, lambda: step(1))
            with _bar(count, "events worked on") as step:
                shown = 0

                def tell(n: int) -> None:
                    nonlocal shown
                    step(n - shown)
                    shown = n

                ended = scene.await_work(positions, process, count, LIMIT_SECONDS, tell)
    except Fatal:
        click.echo(log.read_text(encoding="utf-8", errors="replace")[-3_000:], err=True)
        raise
    return ended - began


def _see(config: settings.Settings) -> account.Seen:
    from .. import wiring

    with ExitStack() as stack:
        topics = (Topic.RAW, Topic.PROTECTED, Topic.REJECTED, Topic.PROFILES, Topic.ALERTS)
        return account.see({t: stack.enter_context(wiring.reader(config, t)) for t in topics})


# -- what a visitor wants to see -------------------------------------------------------------------------------------


def _show(seen: account.Seen, balance: account.Account, who: Person, figures: dict[str, Any], prefix: str) -> None:
    _title("The account, by what stands on the topics")
    sign = "=" if balance.balanced else "≠"
    click.echo(f"  {balance.raw:,} raw {sign} {balance.protected:,} protected + {balance.rejected:,} rejected")
    click.echo(
        f"  missing {balance.missing}, foreign {balance.foreign}, on both sides {balance.both}, twice {balance.twice}"
    )
    click.echo("  rejected: " + ", ".join(f"{n} {reason}" for reason, n in seen.reasons()))
    _customer(seen, who)
    _reject(seen)
    _alerts(seen)
    _title("Figures")
    click.echo(
        f"  {figures['events_per_second']:,} events/s from the first one sent to the last one protected, "
        f"{len(seen.people()):,} profiles, {figures['seconds']} s in all"
    )
    click.echo("  (one worker beside its producer and broker; `make bench` measures properly)")
    _title("What next")
    if prefix:
        click.echo(f"  the topics {prefix}* are yours to look at, and to delete")
    click.echo("  sealstream protect < events.jsonl        your own events through the protect leg, no broker needed")
    click.echo("  sealstream schemas check                 which fields are sealed, tokenized, or clear")
    click.echo("  docs/operations.md                       run it on your Kafka: topics apply, keys init, worker")


def _customer(seen: account.Seen, who: Person) -> None:
    devices = {d.anonymous_id.encode() for d in who.devices}
    places = [p for p, raw in seen.raw.items() if raw.key in devices and p in seen.protected]
    mine = [p for p in places if seen.protected[p].get("tokens", {}).get("userId")]
    if not mine:
        return
    token = seen.protected[mine[0]]["tokens"]["userId"]
    _title("One customer: what her devices sent, and what became of it")
    for kind in ("identify", "track"):
        place = next((p for p in sorted(mine) if seen.protected[p]["type"] == kind), None)
        if place is None:
            continue
        value = seen.raw[place].value or b""
        if value.startswith(b"{"):
            _paragraph("raw", value.decode())
            _paragraph("protected", json.dumps(_short(seen.protected[place]), ensure_ascii=False))
    people = seen.people()
    profile = next((p for p in people.values() if token in p["tokens"].get("user_id", ())), None)
    if profile is not None:
        _title(f"The profile that {len(places)} events of {len(devices)} devices merged into")
        _paragraph("profile", json.dumps(profile, ensure_ascii=False))


def _short(event: dict[str, Any]) -> dict[str, Any]:
    """Leave out what every record has, and cut the sealed values."""
    shown: dict[str, Any] = {
        name: event[name] for name in ("time", "anchor", "event", "tokens", "clear") if name in event
    }
    shown["sealed"] = {path: value[:16] + "…" for path, value in event.get("sealed", {}).items()}
    return shown


def _reject(seen: account.Seen) -> None:
    found = next((r for r in seen.rejected.values() if r.get("path") and r.get("rule")), None)
    if found is not None:
        _title("A reject: the reason in words, what was sent sealed (`sealstream replay` sends it again)")
        names = ("reason", "stage", "path", "rule", "schema", "source")
        _paragraph("rejected", json.dumps({n: found[n] for n in names if n in found}, ensure_ascii=False))


def _alerts(seen: account.Seen) -> None:
    triggers = [a for a in seen.alerts if a["status"] == "trigger"]
    _title(f"Alerts: {len(triggers)} raised, {sum(a['status'] == 'resolve' for a in seen.alerts)} resolved since")
    for alert in triggers:
        at = time.strftime("%H:%M", time.gmtime(alert["first_at"] / 1000))
        _paragraph(f"{alert['severity']} {alert['score']}", f"{at} UTC  {alert['summary']}")


def _title(text: str) -> None:
    click.echo(f"\n{text}")


def _paragraph(label: str, text: str) -> None:
    indent = " " * 14
    lines = textwrap.wrap(text, _WIDE - len(indent), break_on_hyphens=False)
    click.echo(f"  {label:12}" + f"\n{indent}".join(lines))


def _plain(balance: account.Account) -> dict[str, Any]:
    return {**{name: getattr(balance, name) for name in balance.__struct_fields__}, "balanced": balance.balanced}


def _say(message: str) -> None:
    click.echo(message, err=True)


@contextmanager
def _bar(total: int, label: str) -> Iterator[Callable[[int], None]]:
    if not sys.stderr.isatty():
        _say(f"{label.strip()}: {total:,}")
        yield lambda n: None
        return
    with click.progressbar(length=total, label=label, file=sys.stderr, update_min_steps=total // 100) as bar:
        yield bar.update
