"""Model versions: their metrics and plots, promotion and rollback with a confirmation, and the history."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from jobs.errors import NotPossible
from jobs.states import VersionState
from jobs.web.console import Form, console_of, page, posting, redirect

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jobs.records import Json, Promotion

__all__ = ["ROUTES"]

WORST = 15  # classes, and pairs of classes, that are shown


def show(request: Request) -> Response:
    """Show the versions and which was in production when."""
    client = console_of(request).client
    history = client.history()
    return page(request, "models.html", versions=client.models(), history=history[::-1], can_roll_back=len(history) > 1)


def version(request: Request) -> Response:
    """Show a version's card."""
    card = console_of(request).client.model_card(request.path_params["name"])
    promotable = card["state"] == VersionState.AVAILABLE and not card["production"]
    return page(request, "model.html", card=card, promotable=promotable, **_plots(card))


def _plots(card: Json) -> dict[str, Any]:
    """Return what the card has for plots: (x, y) from 0 to 1, and the classes and pairs that are worst."""
    metrics = card.get("metrics") or {}
    risks = [(point["coverage"], point["risk"]) for point in metrics.get("risk_coverage") or ()]
    classes = sorted(metrics.get("per_class") or (), key=lambda one: (one["recall"], -one["images"]))
    return {
        "risks": risks,
        "most_risk": max((risk for _, risk in risks), default=0.0) or 1.0,
        "worst": classes[:WORST],
        "confusions": (metrics.get("confusions") or [])[:WORST],
        "metrics": metrics,
    }


def ask_to_promote(request: Request) -> Response:
    """Ask whether a version is really to be promoted."""
    client = console_of(request).client
    name = client.model(request.path_params["name"]).name
    return page(
        request,
        "confirm.html",
        title=f"Promote {name}",
        text=f"New jobs will use {name} instead of {_live(client.history())}. Jobs that run keep their version.",
        action=request.url.path,
        button="Promote",
    )


def promote(request: Request, _form: Form) -> Response:
    """Make a version production."""
    console_of(request).client.promote(request.path_params["name"])
    return redirect("/models")


def ask_to_roll_back(request: Request) -> Response:
    """Ask whether the last promotion is really to be undone."""
    history = console_of(request).client.history()
    if len(history) < 2:
        raise NotPossible("there is no earlier version to go back to")
    text = f"New jobs will use the version that was in production before {_live(history)}."
    return page(request, "confirm.html", title="Roll back", text=text, action="/models/rollback", button="Roll back")


def roll_back(request: Request, _form: Form) -> Response:
    """Undo the last promotion."""
    console_of(request).client.rollback()
    return redirect("/models")


def _live(history: Sequence[Promotion]) -> str:
    return history[-1].model_version if history else "none"


ROUTES = (
    Route("/models", show, methods=["GET"]),
    Route("/models/rollback", ask_to_roll_back, methods=["GET"]),
    Route("/models/rollback", posting(roll_back), methods=["POST"]),
    Route("/models/{name}", version, methods=["GET"]),
    Route("/models/{name}/promote", ask_to_promote, methods=["GET"]),
    Route("/models/{name}/promote", posting(promote), methods=["POST"]),
)
