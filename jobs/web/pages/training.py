"""Training runs: the list, and one run with its curves while it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from jobs.web.console import Form, console_of, page, posting, redirect

if TYPE_CHECKING:
    from jobs.records import TrainingStatus

__all__ = ["ROUTES"]

ROWS = 50


def show(request: Request) -> Response:
    """Show the newest runs."""
    return page(request, "training.html", runs=list(console_of(request).client.trainings(limit=ROWS)))


def run(request: Request) -> Response:
    """Show a run."""
    status = console_of(request).client.training(request.path_params["id"]).status()
    return page(request, "run.html", run=status, curves=_curves(status))


def _curves(status: TrainingStatus) -> list[tuple[str, str, list[tuple[float, float]]]]:
    """Return (name, kind, points) of each curve, the points as fractions of the epochs and of the highest value."""
    epochs = max([status.epochs or 0, *(point["epoch"] for point in status.curve)], default=0) or 1
    losses = [point[name] for point in status.curve for name in ("train_loss", "valid_loss") if point.get(name)]
    highest = max(losses, default=1.0) or 1.0
    names = (
        ("loss on training images", "train_loss", highest),
        ("loss on calibration images", "valid_loss", highest),
        ("accuracy", "accuracy", 1.0),
    )
    return [
        (text, name, [(p["epoch"] / epochs, p[name] / top) for p in status.curve if p.get(name) is not None])
        for text, name, top in names
    ]


def cancel(request: Request, _form: Form) -> Response:
    """Stop a run."""
    found = console_of(request).client.training(request.path_params["id"])
    found.cancel()
    return redirect(f"/training/{found.id}")


ROUTES = (
    Route("/training", show, methods=["GET"]),
    Route("/training/{id}", run, methods=["GET"]),
    Route("/training/{id}/cancel", posting(cancel), methods=["POST"]),
)
