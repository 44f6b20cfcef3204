"""Processes that crashed in the midst of an image or a run are counted as `crashes`."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

TABLES = ("images", "training_runs")


def upgrade() -> None:
    for table in TABLES:
        _rename(table, "deaths", "crashes")


def downgrade() -> None:
    for table in TABLES:
        _rename(table, "crashes", "deaths")


def _rename(table: str, old: str, new: str) -> None:
    """Rename a column in place, with its default; one that has the new name stays as it is.

    Both databases only change their catalog for it; Alembic would copy SQLite's table, which has a row per image.
    """
    if old in {column["name"] for column in sa.inspect(op.get_bind()).get_columns(table)}:
        op.execute(f"ALTER TABLE {table} RENAME COLUMN {old} TO {new}")
