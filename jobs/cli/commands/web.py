"""The command of the web console: web."""

from typing import Annotated

import typer

from jobs.cli.output.formats import notice
from jobs.requirements import require_web_packages

__all__ = ["web"]


def web(
    host: Annotated[str, typer.Option(help="Address to listen on; other machines need CARS_WEB_TOKEN.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port to listen on; 0: any that is free.")] = 8000,
) -> None:
    """Serve the web console, with the demo, until it is stopped; needs the extra web."""
    require_web_packages()
    from jobs.client import Client
    from jobs.web.server import serve

    with Client() as client:
        serve(client, host=host, port=port, ready=lambda port: notice(f"the console: http://{_name(host)}:{port}/"))


def _name(host: str) -> str:
    return f"[{host}]" if ":" in host else host
