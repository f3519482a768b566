"""`sealstream bench`: thin commands over `bench/`, which is part of a checkout and not of an installation."""

from __future__ import annotations

import importlib
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import Any

import click

from .. import settings
from ..errors import Misuse

CHECKOUT = Path(__file__).resolve().parents[2]
PACKAGES = ("sealstream", "faust-streaming", "aiokafka", "cryptography", "msgspec")

as_json = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
seeded = click.option("--seed", default=7, show_default=True, help="Of the workload; the same seed, the same bytes.")


@click.group(invoke_without_command=True)
@as_json
@click.pass_context
def bench(context: click.Context, as_json: bool) -> None:
    """Measure the legs on a real broker (SEALSTREAM_KAFKA, else one is started), or in memory. By itself: `protect`.

    Figures are of this machine in this minute: compare ratios of one run, not runs.

    \b
    Examples:
      sealstream bench --json
      sealstream bench protect --events 1200000 --against streams --rounds 3
      sealstream bench protect --in-memory --json
      sealstream bench crypto
      sealstream bench subject-keys --subjects 10000000 --store memory --store rocksdb
      sealstream bench identify --against faust
      sealstream bench latency --rate 2000 --seconds 30
      sealstream bench identity-truth
      sealstream bench serve --against owner
    """
    if context.invoked_subcommand is None:
        context.invoke(protect, as_json=as_json)


@bench.command()
@click.option("--events", default=300_000, show_default=True, type=click.IntRange(1_000))
@click.option("--in-memory", is_flag=True, help="Without a broker: the leg alone, µs per event by stage.")
@click.option(
    "--against", multiple=True, type=click.Choice(["streams", "faust"]), help="Peers to run in the same round."
)
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1, 4), help="So many beside one.")
@click.option(
    "--cores",
    type=click.FloatRange(0.1, 1),
    help="With --workers: so much of a core for each of them, where there are too few cores (Linux, as root).",
)
@click.option("--rounds", default=1, show_default=True, type=click.IntRange(1, 20))
@seeded
@as_json
def protect(
    events: int,
    in_memory: bool,
    against: tuple[str, ...],
    workers: int,
    cores: float | None,
    rounds: int,
    seed: int,
    as_json: bool,
) -> None:
    """The protect leg: 560-byte events, 3 tokens, 4 sealed fields, 1 % invalid, 20,000 customers.

    \b
    Examples:
      sealstream bench protect --events 1200000 --against streams --rounds 3
      sealstream bench protect --in-memory --json
      sealstream bench protect --workers 2 --cores 0.4 --rounds 3
    """
    if cores and workers == 1:
        raise click.UsageError("--cores goes with --workers")
    stages = _part("costs").protect(min(events, 100_000), seed)
    if in_memory:
        per_event = stages["total"]
        _show(
            {
                "bench": "protect",
                "events": min(events, 100_000),
                "events_per_second": round(1e6 / per_event),
                "events_per_cpu_second": round(1e6 / per_event),
                "peak_rss_bytes": _part("costs").own_peak_rss_bytes(),
                "microseconds": stages,
            },
            as_json,
        )
        return
    part = _part("protect")
    runs: dict[str, list[Any]] = {"sealstream": [], **{name: [] for name in against}}
    alone: list[Any] = []
    together: list[Any] = []
    with _broker() as bootstrap:
        for _ in range(rounds):
            runs["sealstream"].append(part.ours(bootstrap, events, seed, _say))
            for name in against:
                runs[name].append(part.PEERS[name](bootstrap, events, seed, _say))
            if workers > 1:
                alone.append(part.ours(bootstrap, events, seed, _say, cores=cores) if cores else runs["sealstream"][-1])
                together.append(part.ours(bootstrap, events, seed, _say, workers=workers, cores=cores))
    mine = runs["sealstream"]
    whole = 1e6 / statistics.median(m.events_per_cpu_second for m in mine)
    result = {
        "bench": "protect",
        **_figures(mine),
        "microseconds": {**stages, "engine": round(whole - stages["total"], 2), "worker": round(whole, 2)},
    }
    for name in against:
        found = _figures(runs[name])
        ratios = [a.events_per_cpu_second / b.events_per_cpu_second for a, b in zip(mine, runs[name], strict=True)]
        result[name] = {
            **found,
            "ratio_by_round": [round(r, 2) for r in ratios],
            "ratio": round(statistics.median(ratios), 2),
        }
    if together:
        scaled = [a.events_per_second / b.events_per_second for a, b in zip(together, alone, strict=True)]
        result[f"{workers}_workers"] = {
            "cores_each": cores,
            "alone_events_per_second": round(statistics.median(m.events_per_second for m in alone)),
            "events_per_second": round(statistics.median(m.events_per_second for m in together)),
            "ratio_by_round": [round(r, 2) for r in scaled],
            "ratio": round(statistics.median(scaled), 2),
        }
    _show(result, as_json)


@bench.command()
@click.option("--subjects", default=100_000, show_default=True, type=click.IntRange(100), help="People with a key.")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1, 100))
@seeded
@as_json
def crypto(subjects: int, rounds: int, seed: int, as_json: bool) -> None:
    """Tokens, seals and people's keys, in memory: CPU µs per use, the median of the rounds.

    `event`: 3 tokens, the person's key and 4 seals, of a person drawn at random; `event_remembered`: of one whom the
    caches hold; `event_cold`: the person's first one since the start.

    \b
    Example:
      sealstream bench crypto --json
    """
    part = _part("crypto")
    result = {
        "bench": "crypto",
        "subjects": subjects,
        "rounds": rounds,
        "microseconds": part.costs(subjects, rounds, seed),
        "peak_rss_bytes": _part("costs").own_peak_rss_bytes(),
    }
    _show(result, as_json)


@bench.command("subject-keys")
@click.option("--subjects", default=1_000_000, show_default=True, type=click.IntRange(100), help="People with a key.")
@click.option(
    "--store",
    "stores",
    multiple=True,
    default=["memory"],
    show_default=True,
    type=click.Choice(["memory", "rocksdb", "changelog"]),
    help="rocksdb needs sealstream[bench]; changelog: through Kafka into a worker that starts.",
)
@as_json
def subject_keys(subjects: int, stores: tuple[str, ...], as_json: bool) -> None:
    """The table of people's keys: bytes per person, the time to make and to write them, and to read them back.

    \b
    Examples:
      sealstream bench subject-keys --subjects 10000000 --store memory --store rocksdb
      sealstream bench subject-keys --subjects 10000000 --store changelog --json
    """
    part = _part("subject_keys")
    for store in stores:
        part.needs(store)
    with _broker() if "changelog" in stores else nullcontext() as bootstrap:
        found = part.measured(subjects, stores, bootstrap, _say)
    _show({"bench": "subject-keys", "subjects": subjects, **found}, as_json)


@bench.command()
@click.option("--events", default=300_000, show_default=True, type=click.IntRange(1_000), help="Of the steady state.")
@click.option("--customers", default=20_000, show_default=True, type=click.IntRange(10))
@click.option(
    "--against",
    multiple=True,
    type=click.Choice(["streams", "faust"]),
    help="A plain keyed fold of the same topic, same round.",
)
@click.option("--in-memory", is_flag=True, help="Without a broker: memory per profile, and how long a merge takes.")
@click.option(
    "--profiles",
    multiple=True,
    default=[100_000],
    show_default=True,
    type=click.IntRange(100),
    help="In memory: so many, of 5 identifiers each.",
)
@click.option("--merged", default=1_000, show_default=True, type=click.IntRange(2), help="Identifiers of a cluster.")
@seeded
@as_json
def identify(
    events: int,
    customers: int,
    against: tuple[str, ...],
    in_memory: bool,
    profiles: tuple[int, ...],
    merged: int,
    seed: int,
    as_json: bool,
) -> None:
    """The identify leg: customers with 3 devices each; the first pass, where each edge is new, then steady state.

    `recovery`: the worker is started once more, until it has read its tables. `merge_milliseconds`: the leg's CPU when
    two clusters of so many identifiers meet.

    \b
    Examples:
      sealstream bench identify --customers 20000 --against streams --against faust --json
      sealstream bench identify --in-memory --profiles 100000 --profiles 1000000
    """
    if in_memory:
        apart = _part("measure").apart
        in_tables = {f"{count}_profiles": apart("profiles", "memory", count) for count in profiles}
        merge = {"merged_identifiers": merged, "merge_milliseconds": apart("profiles", "merges", merged)}
        _show({"bench": "identify", **in_tables, **merge}, as_json)
        return
    with _broker() as bootstrap:
        found = _part("identify").ours(bootstrap, events, customers, seed, _say, against=against)
    result = {
        "bench": "identify",
        "customers": customers,
        **_figures([found.steady]),
        "first_pass_events": found.first_pass_events,
        "first_pass_events_per_cpu_second": round(found.first_pass_per_cpu_second),
        "rss_bytes": found.rss_bytes,
        "recovery": {"rows": found.rows, **found.recovered._asdict()},
        "microseconds": {"worker": round(1e6 / found.steady.events_per_cpu_second, 2)},
    }
    for name, peer in found.peers.items():
        measured = _figures([peer])
        ratio = found.steady.events_per_cpu_second / peer.events_per_cpu_second
        result[name] = {**measured, "ratio": round(ratio, 2)}
    _show(result, as_json)


@bench.command()
@click.option("--rate", default=2_000, show_default=True, type=click.IntRange(1), help="Events per second.")
@click.option("--seconds", default=30, show_default=True, type=click.IntRange(1))
@click.option("--customers", default=10_000, show_default=True, type=click.IntRange(10), help="With 3 devices each.")
@seeded
@as_json
def latency(rate: int, seconds: int, customers: int, seed: int, as_json: bool) -> None:
    """Milliseconds from the append of a raw event to its protected record and its profile, as a consumer sees them.

    And the worker's memory after each tenth of the time; `rss_growth_bytes`: from the third tenth's end on. What is
    known of 10,000 customers still grows after a quarter of an hour at this rate, and hides a leak.

    \b
    Examples:
      sealstream bench latency --rate 2000 --seconds 30
      sealstream bench latency --rate 2000 --seconds 2700 --customers 1000
    """
    with _broker() as bootstrap:
        found = _part("latency").ours(bootstrap, rate, seconds, customers, seed, _say)
    milliseconds = {"p50": found.p50, "p95": found.p95, "p99": found.p99}
    memory = {"rss_bytes": found.rss_bytes, "rss_growth_bytes": found.rss_bytes[-1] - found.rss_bytes[2]}
    _show(
        {"bench": "latency", "rate": rate, "events": found.events, "seen": found.seen, **milliseconds, **memory},
        as_json,
    )


@bench.command("identity-truth")
@click.option("--people", default=2_000, show_default=True, type=click.IntRange(10), help="In generated households.")
@click.option("--febrl", is_flag=True, help="And on the Febrl data sets (needs sealstream[bench]).")
@click.option("--rules", type=click.Path(path_type=Path, dir_okay=False), help="Default: identity.toml of the schemas.")
@seeded
@as_json
def identity_truth(people: int, febrl: bool, rules: Path | None, seed: int, as_json: bool) -> None:
    """How well the rules tell people apart, where it is known: pairwise precision, recall and F1, without a broker.

    With all rules, with each removed alone, with none; where people sign in, and where nobody has an account. Scored
    are pairs of identifiers that belong to one person, and pairs of events.

    \b
    Examples:
      sealstream bench identity-truth --febrl
      sealstream bench identity-truth --rules stricter.toml --json
    """
    from .. import wiring

    chosen = wiring.identity_rules(settings.load(), rules)
    worlds = {
        name: _part("truth").generated(chosen, people, seed, _say, accounts=accounts)
        for name, accounts in (("accounts", True), ("guests", False))
    }
    records = list(_part("febrl").measured(chosen, seed, _say)) if febrl else []
    if as_json:
        found: dict[str, Any] = {"bench": "identity-truth", "people": people, "seed": seed}
        for name, (events, rows) in worlds.items():
            scored = [
                {**r._asdict(), "identifiers": r.identifiers._asdict(), "events": r.events._asdict()} for r in rows
            ]
            found[name] = {"events": events, "scores": scored}
        found["febrl"] = [{**r._asdict(), "records": r.records._asdict()} for r in records]
        _show(found, as_json)
        return
    for name, (events, rows) in worlds.items():
        click.echo(
            f"{name}, {events:,} events".ljust(30) + f"{'pairs of identifiers':>24}   {'pairs of events':>24}  largest"
        )
        click.echo(f"{'':30}{_HEAD}   {_HEAD}  profile")
        for row in rows:
            click.echo(f"{row.rules:30}{_scores(row.identifiers)}   {_scores(row.events)}  {row.largest:7,}")
    for row in records:
        click.echo(f"{row.data}, {row.identifiers}, {row.rules}".ljust(56) + _scores(row.records))


_HEAD = f"{'prec.':>8}{'recall':>8}{'F1':>8}"


def _scores(score: Any) -> str:
    return "".join(f"{value:8.4f}" for value in score)


@bench.command()
@click.option("--profiles", default=100_000, show_default=True, type=click.IntRange(1_000))
@click.option("--rate", default=500, show_default=True, type=click.IntRange(1), help="Records that arrive per second.")
@click.option("--seconds", default=20, show_default=True, type=click.IntRange(1))
@click.option("--against", type=click.Choice(["owner"]), help="The partitions' owner, asked for the same.")
@seeded
@as_json
def serve(profiles: int, rate: int, seconds: int, against: str | None, seed: int, as_json: bool) -> None:
    """Milliseconds of a GET of a profile by identifier, while records keep arriving; 200 requests/s.

    
    Example:
      sealstream bench serve --against owner --json
    """
    part = _part("serve")
    with _broker() as bootstrap:
        found = part.projection(bootstrap, profiles, rate, seconds, seed, _say)
    result = {
        "bench": "serve",
        "profiles": profiles,
        "rate": rate,
        "profiles_per_second": round(found.profiles_per_second),
        "profiles_per_cpu_second": round(found.profiles_per_cpu_second),
        "arrived_per_second": round(found.arrived_per_second),
        "milliseconds": found.identifier._asdict(),
        "nothing": found.nothing._asdict(),
        "cpu_share": round(found.cpu_share, 2),
        "rss_bytes": found.rss_bytes,
        "database_bytes": found.database_bytes,
    }
    if against:
        result["owner"], result["owner_backlog"] = (x._asdict() for x in part.owner(rate, seconds, seed, _say))
    _show(result, as_json)


def _part(name: str) -> Any:
    if not (CHECKOUT / "bench" / "measure.py").exists():
        raise Misuse("`sealstream bench` runs from a checkout of the project: its workloads are not installed")
    if str(CHECKOUT) not in sys.path:
        sys.path.insert(0, str(CHECKOUT))
    return importlib.import_module(f"bench.{name}")


@contextmanager
def _broker() -> Iterator[str]:
    from ..adapters import brokers

    with brokers.find_or_start(settings.load().kafka, need_real=True, say=_say) as broker:
        yield broker.bootstrap


def _say(message: str) -> None:
    click.echo(message, err=True)


def _figures(runs: list[Any]) -> dict[str, Any]:
    """`Misuse` if a run was over before its steady part began."""
    if not all(r.events_per_cpu_second for r in runs):
        raise Misuse("too few events to measure by: all were done in one step; give more")

    def median(of: Callable[[Any], float]) -> int:
        return round(statistics.median(of(r) for r in runs))

    return {
        "events": runs[0].events,
        "rounds": len(runs),
        "events_per_second": median(lambda r: r.events_per_second),
        "events_per_cpu_second": median(lambda r: r.events_per_cpu_second),
        "events_per_cpu_second_whole": median(lambda r: r.events_per_cpu_second_whole),
        "peak_rss_bytes": median(lambda r: r.peak_rss_bytes),
    }


def _show(result: dict[str, Any], as_json: bool) -> None:
    result["versions"] = {"python": python_version(), **{p: version(p) for p in PACKAGES}}
    if as_json:
        click.echo(json.dumps(result))
        return
    for name, value in result.items():
        if isinstance(value, dict):
            click.echo(f"{name}:")
            for inner, figure in value.items():
                click.echo(f"  {inner:32} {_shown(figure):>14}")
        else:
            click.echo(f"{name:34} {_shown(value):>14}")


def _shown(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int | float) else str(value)
