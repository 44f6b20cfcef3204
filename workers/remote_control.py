"""What Celery's own tools ask of a worker, where Celery's own answer is none."""

from __future__ import annotations

import logging
from typing import Any

from celery.worker import state
from celery.worker.control import control_command

__all__ = ["shutdown"]

logger = logging.getLogger(__name__)


@control_command()
def shutdown(_state: Any, **_kw: Any) -> dict[str, str]:
    """End in good order. Celery's command of this name ends the worker before it has answered."""
    logger.warning("shutting down: asked to by remote control")
    state.should_stop = 0  # looked at when this has been answered
    return {"ok": "shutting down"}
