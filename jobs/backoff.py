"""How long to wait before what failed and may pass is tried again."""

__all__ = ["pause"]

FIRST_SECONDS = 0.5
SOON_SECONDS = 4.0  # the tick that notices comes up to a second later
EARLY_SECONDS = 600.0
LONGEST_SECONDS = 60.0


def pause(waited: float) -> float:
    """Seconds until the next try of what has failed for `waited` seconds: under 5 s between tries for 10 minutes, then
    a tenth of the time it has taken so far beyond those, up to a minute.
    """
    if waited <= EARLY_SECONDS:
        return min(SOON_SECONDS, max(FIRST_SECONDS, waited))
    return min(LONGEST_SECONDS, SOON_SECONDS + (waited - EARLY_SECONDS) / 10)
