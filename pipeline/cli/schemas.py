"""`sealstream schemas`: the event schemas."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import click

from .. import settings
from ..errors import Misuse
from ..stages.schema import Field


@click.group()
def schemas() -> None:
    """Check and show the event schemas.

    \b
    Example:
      sealstream schemas check
    """


_directory = click.option(
    "--dir", "directory", type=click.Path(path_type=Path, file_okay=False), help="Default: SEALSTREAM_SCHEMA_DIR."
)


@schemas.command()
@_directory
@click.option("--json", "as_json", is_flag=True, help="Print what was checked as JSON.")
def check(directory: Path | None, as_json: bool) -> None:
    """Read every schema as a worker would: each field has a rule, no tagged field is clear, versions are compatible.

    Exit code 2 with the schema, the field and the rule if one is wrong.

    \b
    Examples:
      sealstream schemas check
      sealstream schemas check --dir ./schemas --json
    """
    from ..adapters import schema_files

    registry = schema_files.load(directory or settings.load().schema_dir)
    rows = [
        {
            "schema": c.title,
            "type": c.schema.type,
            "event": c.schema.event,
            "fingerprint": c.fingerprint.hex(),
            "fields": {f.path: _rule(f) for f in _leaves(c.schema.fields)},
        }
        for c in registry.schemas
    ]
    if as_json:
        click.echo(json.dumps({"schemas": rows, "types_without_schema": registry.missing()}))
    else:
        for row in rows:
            click.echo(f"ok  {row['schema']:28} {len(row['fields'])} fields")
        for type_ in registry.missing():
            click.echo(f"note: no generic schema for {type_}: such events are rejected as unknown_schema", err=True)


@schemas.command()
@click.argument("name")
@_directory
def show(name: str, directory: Path | None) -> None:
    """Print the complete Avro schema NAME (or NAME/VERSION), the envelope's fields included, for producers of Avro.

    \b
    Example:
      sealstream schemas show order_completed > order_completed.avsc
    """
    from ..adapters import schema_files

    found = [s for s in schema_files.read(directory or settings.load().schema_dir) if name in (s.name, s.title)]
    if not found:
        raise Misuse("no schema of this name; `sealstream schemas check` lists them")
    click.echo(json.dumps(found[-1].avro, indent=2, ensure_ascii=False))


@schemas.command()
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@click.option("--check", "check_only", is_flag=True, help="Write nothing; exit code 1 if a file differs.")
@click.pass_context
def outputs(ctx: click.Context, directory: Path, check_only: bool) -> None:
    """Write the JSON Schema of each output topic into DIRECTORY, for consumers.

    \b
    Example:
      sealstream schemas outputs schemas/outputs --check
    """
    from ..stages.outputs import TOPICS, output_schema

    differs = 0
    for topic in TOPICS:
        path = directory / f"{topic.value}.schema.json"
        content = json.dumps(output_schema(topic), indent=2, ensure_ascii=False) + "\n"
        if path.exists() and path.read_text(encoding="utf-8") == content:
            continue
        differs += 1
        if not check_only:
            directory.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
        click.echo(f"{'differs' if check_only else 'wrote'}  {path}")
    ctx.exit(1 if check_only and differs else 0)


def _leaves(fields: tuple[Field, ...]) -> Iterator[Field]:
    for f in fields:
        if f.container:
            yield from _leaves(f.type.fields)
        else:
            yield f


def _rule(f: Field) -> str:
    assert f.protect is not None
    return f"{f.protect.value} ({f.identifier})" if f.identifier else f.protect.value
