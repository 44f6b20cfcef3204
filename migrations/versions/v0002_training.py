"""Training runs and corrections."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "training_runs",
        sa.Column("id", ID, nullable=False),
        sa.Column("token", sa.String(length=8), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("dataset", sa.Text(), nullable=False),
        sa.Column("recipe", sa.String(length=40), nullable=False),
        sa.Column("init", sa.Text(), nullable=False),
        sa.Column("epochs", sa.Integer(), nullable=True),
        sa.Column("options", JSON, nullable=False),
        sa.Column("progress", JSON, nullable=False),
        sa.Column("candidate", JSON, nullable=True),
        sa.Column("production", JSON, nullable=True),
        sa.Column("version_id", ID, nullable=True),
        sa.Column("promoted", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("owner", sa.String(length=120), nullable=True),
        sa.Column("attempt", sa.Integer(), server_default="0", nullable=False),
        sa.Column("deaths", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("expires_at", TIME, nullable=True),
        sa.Column("cancel_requested", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("started_at", TIME, nullable=True),
        sa.Column("finished_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(["version_id"], ["model_versions.id"], name="fk_training_runs_version_id"),
        sa.PrimaryKeyConstraint("id", name="pk_training_runs"),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_training_runs_open",
        "training_runs",
        ["id"],
        unique=False,
        postgresql_where=sa.text("finished_at IS NULL"),
        sqlite_where=sa.text("finished_at IS NULL"),
    )
    op.create_index("ix_training_runs_version_id", "training_runs", ["version_id"], unique=False)
    op.create_table(
        "corrections",
        sa.Column("id", ID, nullable=False),
        sa.Column("content_hash", sa.LargeBinary(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("job_id", ID, nullable=True),
        sa.Column("path", sa.Text(), nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_corrections"),
        sa.UniqueConstraint("content_hash", name="uq_corrections_content_hash"),
    )


def downgrade() -> None:
    op.drop_table("corrections")
    op.drop_table("training_runs")
