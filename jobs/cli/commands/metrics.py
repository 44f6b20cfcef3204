"""The command for monitoring: metrics."""

from typing import Annotated

import typer

from jobs.cli.context import dependencies
from jobs.cli.output.formats import notice
from jobs.cli.signals import terminable

__all__ = ["metrics"]


def metrics(
    ctx: typer.Context,
    host: Annotated[str, typer.Option(help="Address to listen on; other machines need CARS_WEB_TOKEN.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port to listen on; 0: any that is free.")] = 9187,
    once: Annotated[bool, typer.Option("--once", help="Print the metrics and leave.")] = False,
) -> None:
    """Serve metrics for Prometheus at /metrics until it is stopped."""
    with dependencies(ctx).client() as client:
        exposition = client.metrics()
        if once:
            typer.echo(exposition.text().decode(), nl=False)
            return
        from jobs.cli.metrics_server import make

        server = make(exposition, host=host, port=port, token=client.settings.web_token)
        with terminable(), server:
            notice(f"metrics at http://{host}:{server.server_port}/metrics")
            server.serve_forever()
