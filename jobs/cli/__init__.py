"""The command line: `cars …`, thin over `jobs.client`."""

__all__ = ["main"]


def main() -> None:
    """Run the command that `sys.argv` names and exit: 0 done, 1 failed, 2 wrong usage, 3 strict and images failed."""
    import gc
    import sys

    gc.disable()  # until the client is loaded: imports leave no garbage, and the search takes a quarter of their time
    from jobs.cli.app import app

    for stream in (sys.stdout, sys.stderr):
        # A file name may hold letters that a C locale cannot show: better an escape than a traceback.
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")
    app(prog_name="cars")
