"""Runs that read only what changed: what they are compared with, and by what an unchanged image is known."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
FLAGS = ("incremental", "trial", "accept_shrink")


def upgrade() -> None:
    for flag in FLAGS:
        op.add_column("jobs", sa.Column(flag, sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column("jobs", sa.Column("base_id", ID, nullable=True))
    op.add_column("jobs", sa.Column("unchanged", sa.Integer(), server_default="0", nullable=False))
    op.add_column("jobs", sa.Column("read_with", sa.Text(), nullable=True))
    op.create_index("ix_jobs_source_id", "jobs", ["source", "id"])
    op.add_column("images", sa.Column("stamp", sa.Text(), nullable=True))
    # Single files say nothing of the rest of their folder: such a job is never the folder's current run.
    op.execute("UPDATE jobs SET trial = true WHERE id IN (SELECT job_id FROM listed_files)")


def downgrade() -> None:
    op.drop_index("ix_jobs_source_id", "jobs")
    for table, column in (
        ("images", "stamp"),
        ("jobs", "read_with"),
        ("jobs", "unchanged"),
        ("jobs", "base_id"),
        *(("jobs", flag) for flag in reversed(FLAGS)),
    ):
        op.drop_column(table, column)
