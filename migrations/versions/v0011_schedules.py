"""Schedules, their ledger, and what is told of a job's end."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TIME = sa.DateTime(timezone=True)
OF_SCHEDULES = "schedule_id IS NOT NULL"
PENDING = "state = 'pending'"


def upgrade() -> None:
    op.create_table(
        "schedules",
        sa.Column("id", ID, primary_key=True),
        sa.Column("name", sa.String(64), nullable=False, unique=True),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("cron", sa.Text()),
        sa.Column("timezone", sa.Text()),
        sa.Column("every", sa.Float(precision=53)),
        sa.Column("anchor", TIME, nullable=False),
        sa.Column("model", sa.Text()),
        sa.Column("top_k", sa.SmallInteger(), nullable=False, server_default="5"),
        sa.Column("priority", sa.SmallInteger(), nullable=False, server_default="1"),
        sa.Column("listing_depth", sa.SmallInteger(), nullable=False, server_default="1"),
        sa.Column("manifest", sa.Text()),
        sa.Column("keep", sa.Integer()),
        sa.Column("notify", sa.Text()),
        sa.Column("paused", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("next_at", TIME),
        sa.Column("created_at", TIME, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_schedules_next_at", "schedules", ["next_at"])
    op.create_table(
        "fires",
        sa.Column("id", ID, primary_key=True),
        sa.Column("schedule_id", ID, sa.ForeignKey("schedules.id", ondelete="CASCADE"), nullable=False),
        sa.Column("due_at", TIME, nullable=False),
        sa.Column("outcome", sa.String(10), nullable=False),
        sa.Column("reason", sa.Text()),
        sa.Column("job_id", ID, sa.ForeignKey("jobs.id", ondelete="SET NULL")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_fires_schedule", "fires", ["schedule_id", "due_at"], unique=True)
    op.create_index("ix_fires_job_id", "fires", ["job_id"])
    op.create_table(
        "notifications",
        sa.Column("id", ID, primary_key=True),
        sa.Column("job_id", ID, sa.ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
        sa.Column("webhook_id", sa.String(64), nullable=False, unique=True),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("state", sa.String(10), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("owner", sa.String(120)),
        sa.Column("next_at", TIME, nullable=False),
        sa.Column("last_error", sa.Text()),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_notifications_job_id", "notifications", ["job_id"])
    op.create_index(
        "ix_notifications_due", "notifications", ["next_at"],
        postgresql_where=sa.text(PENDING), sqlite_where=sa.text(PENDING),
    )  # fmt: skip
    op.add_column("jobs", sa.Column("schedule_id", ID))
    op.add_column("jobs", sa.Column("notify", sa.Text()))
    op.create_index(
        "ix_jobs_schedule", "jobs", ["schedule_id", "id"],
        postgresql_where=sa.text(OF_SCHEDULES), sqlite_where=sa.text(OF_SCHEDULES),
    )  # fmt: skip


def downgrade() -> None:
    op.drop_index("ix_jobs_schedule", "jobs")
    op.drop_column("jobs", "notify")
    op.drop_column("jobs", "schedule_id")
    for table in ("notifications", "fires", "schedules"):
        op.drop_table(table)
