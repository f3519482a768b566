"""`sealstream serve`: profiles over HTTP."""

from __future__ import annotations

import click

from .. import settings


@click.command()
@click.option("--host", help="Default: that of SEALSTREAM_SERVE, 127.0.0.1.")
@click.option("--port", type=click.IntRange(0, 65_535), help="0 picks one. Default: that of SEALSTREAM_SERVE, 9465.")
@click.pass_context
def serve(ctx: click.Context, host: str | None, port: int | None) -> int:
    """Answer GET /v1/profiles/{kind}/{value} and /v1/profiles/{profile_id} until SIGTERM.

    Follows the topic `profiles` into a database (SEALSTREAM_SERVE_DATABASE, a file by default) and answers 503 until it
    has caught up. The identifier becomes a token in this process, which needs the key file; it is never logged.
    Everybody on this machine may ask, unless SEALSTREAM_SERVE_TOKEN_FILE names a file with a bearer token; other
    addresses need that and TLS.

    \b
    Examples:
      sealstream serve
      curl http://127.0.0.1:9465/v1/profiles/email/ann%40example.com
      sealstream serve --host 0.0.0.0 --port 8443
    """
    config = settings.load()
    given_host, _, given_port = config.serve.rpartition(":")
    host = given_host.strip("[]") if host is None else host
    from .. import wiring

    ctx.exit(wiring.serve(config, host, int(given_port) if port is None else port))
