"""The folders of runs on this machine: checkpoints, corrected images, the version that is being published."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from jobs.db.database import Database
from jobs.db.queries import training_runs
from jobs.disk import private_folder
from jobs.settings import Settings
from jobs.states import RunState

__all__ = ["FOLDER", "open_workspace", "remove_ended"]

FOLDER = "training"  # of CARS_HOME: a folder per run, ID-TOKEN-ATTEMPT


def open_workspace(settings: Settings, run: training_runs.RunRecord, *, attempt: int) -> tuple[Path, bool]:
    """Return the folder of this attempt, and whether an earlier one on this machine has left its work there.

    The name is the fence: a worker that has lost its lease and does not know it yet can write nothing into the folder
    any more, since the next attempt has renamed it.
    """
    root = settings.home / FOLDER
    private_folder(root)
    mine = root / f"{run.id}-{run.token}-{attempt}"
    earlier = sorted(root.glob(f"{run.id}-{run.token}-*"), key=lambda folder: int(folder.name.rpartition("-")[2]))
    if earlier:
        earlier[-1].rename(mine)
        return mine, True
    mine.mkdir()
    return mine, False


def remove_ended(settings: Settings, database: Database) -> None:
    """Remove the folders of runs that have ended in any way. One that could not be removed whole keeps its name."""
    root = settings.home / FOLDER
    for folder in root.iterdir() if root.is_dir() else ():
        match = re.fullmatch(r"(\d{1,18})-([0-9a-f]+)-\d+", folder.name)
        if match is None:
            continue
        with database.read() as connection:
            run = training_runs.get(connection, int(match[1]))
        if run is not None and run.token == match[2] and RunState(run.state).terminal:
            shutil.rmtree(folder, ignore_errors=True)
