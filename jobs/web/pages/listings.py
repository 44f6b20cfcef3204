"""Listings: the verdicts, filtered and paged by key, one listing with its images, and the review of doubtful ones."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from jobs.errors import (
    ImageNotFound,
    LabelNotFound,
    ListingNotFound,
    NotPossible,
    SettingsInvalid,
    SourceError,
)
from jobs.states import Decision, ImageStatus
from jobs.web.console import Form, console_of, fraction, page, posting, redirect
from jobs.web.pages.gallery import thumbnail_address

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jobs.client import Client
    from jobs.listings import ListingFilters
    from jobs.records import Listing, ListingDetails, Result

__all__ = ["ROUTES"]

LISTINGS = 48  # on a page
_FIELDS = ("job", "decision", "make", "min_confidence", "max_confidence", "only")
_ONLY = {"conflict": "in conflict", "needs_review": "to be reviewed"}


def show(request: Request) -> Response:
    """Show a page of verdicts, of a job or of the current run of each source."""
    asked = {name: value for name, value in request.query_params.items() if name in _FIELDS and value}
    found: Sequence[Listing] = ()
    status, message, following = 200, None, None
    try:
        listings = console_of(request).client.listings.find(asked.get("job"), **_filters(asked))
        found, following = listings.page(request.query_params.get("after"), limit=LISTINGS)
    except (SettingsInvalid, LabelNotFound) as exc:
        status, message = 400, str(exc)
    return page(
        request,
        "listings.html",
        status=status,
        listings=found,
        following=urlencode({**asked, "after": following}) if following else None,
        first=urlencode(asked) if request.query_params.get("after") else None,
        asked=asked,
        decisions=list(Decision),
        only=_ONLY,
        message=message,
        address=thumbnail_address,
        listing_address=listing_address,
    )


def _filters(asked: Mapping[str, str]) -> ListingFilters:
    return {
        "make": asked.get("make"),
        "decision": asked.get("decision"),
        "conflict": asked.get("only") == "conflict",
        "needs_review": asked.get("only") == "needs_review",
        "min_confidence": fraction(asked.get("min_confidence")),
        "max_confidence": fraction(asked.get("max_confidence")),
    }


def listing_address(job: str, name: str) -> str:
    """Return where a listing is shown."""
    return f"/listing?{urlencode({'job': job, 'name': name})}"


def listing(request: Request) -> Response:
    """Show a listing: its verdict and its images."""
    client = console_of(request).client
    found = client.listings.get(f"{request.query_params.get('job', '')}:{request.query_params.get('name', '')}")
    return page(request, "listing.html", found=found, verdict=found.verdict, address=thumbnail_address)


def review(request: Request) -> Response:
    """Show the listing that needs a person's word most, after those that were seen."""
    client = console_of(request).client
    after = request.query_params.get("after")
    if again := request.query_params.get("listing"):  # undone: its verdict is due, and not in the queue before that
        found = [client.listings.get(again).verdict]
        return _review_page(request, found, after=after, following=request.query_params.get("next"))
    try:
        found, following = client.listings.find(needs_review=True).page(after, limit=1)
    except SettingsInvalid:  # a cursor of another time
        return redirect("/review")
    return _review_page(request, found, after=after, following=following)


def _review_page(
    request: Request,
    found: Sequence[Listing],
    *,
    after: str | None,
    following: str | None,
    status: int = 200,
    message: str | None = None,
) -> Response:
    client, undo = console_of(request).client, request.query_params
    details = client.listings.get(f"{found[0].job}:{found[0].listing}") if found else None
    return page(
        request,
        "review.html",
        status=status,
        found=details,
        verdict=found[0] if found else None,
        corrected=_corrected(details) if details else None,
        classes=client.model_card(found[0].model_version)["classes"] if found else (),
        after=after,
        following=following,
        undo={name: undo[name] for name in ("image", "label", "before", "of", "after") if name in undo},
        message=message,
        address=thumbnail_address,
        listing_address=listing_address,
    )


def _corrected(details: ListingDetails) -> Result | None:
    """Return the image that a word about the listing is about: the one that shows it best, else the first."""
    readable = [image for image in details.images if image.status == ImageStatus.OK]
    return next((image for image in readable if image.path == details.verdict.photo), next(iter(readable), None))


def correct(request: Request, form: Form) -> Response:
    """Write what a person says of a listing, through one of its images, and show the next."""
    client = console_of(request).client
    image, label = form.text("image") or "", form.text("label") or ""
    before, following = form.text("before"), form.text("after")
    try:
        client.corrections.add(image, label)
    except (NotPossible, ImageNotFound, SourceError) as exc:
        return _again(request, client, before, message=str(exc))
    told = {"image": image, "label": label, "of": form.text("of"), "before": before, "after": following}
    return redirect(f"/review?{_query(told)}")


def _query(fields: Mapping[str, str | None]) -> str:
    return urlencode({name: value for name, value in fields.items() if value})


def _again(request: Request, client: Client, before: str | None, *, message: str) -> Response:
    found, following = client.listings.find(needs_review=True).page(before, limit=1)
    return _review_page(request, found, after=before, following=following, status=400, message=message)


def undo(request: Request, form: Form) -> Response:
    """Remove a correction, and show the listing that it was about again."""
    try:
        console_of(request).client.corrections.remove(form.text("image") or "")
    except (NotPossible, ImageNotFound, ListingNotFound) as exc:
        raise NotPossible(f"there is nothing to undo: {exc}") from exc
    again = {"listing": form.text("of"), "after": form.text("before"), "next": form.text("after")}
    return redirect(f"/review?{_query(again)}")


ROUTES = (
    Route("/listings", show, methods=["GET"]),
    Route("/listing", listing, methods=["GET"]),
    Route("/review", review, methods=["GET"]),
    Route("/review", posting(correct), methods=["POST"]),
    Route("/review/undo", posting(undo), methods=["POST"]),
)
