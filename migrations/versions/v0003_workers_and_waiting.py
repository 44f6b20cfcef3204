"""What a worker says of itself, what a job waits for, and how often a batch has failed."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column("workers", sa.Column("broken", sa.Text(), nullable=True))
    op.add_column("workers", sa.Column("images_per_second", sa.Float(precision=53), nullable=True))
    op.add_column("jobs", sa.Column("waiting", sa.Text(), nullable=True))
    op.add_column("jobs", sa.Column("waiting_since", TIME, nullable=True))
    op.add_column("batches", sa.Column("failures", sa.SmallInteger(), server_default="0", nullable=False))
    op.add_column("batches", sa.Column("loading", sa.Boolean(), server_default=sa.false(), nullable=False))


def downgrade() -> None:
    for table, column in (
        ("batches", "loading"),
        ("batches", "failures"),
        ("jobs", "waiting_since"),
        ("jobs", "waiting"),
        ("workers", "images_per_second"),
        ("workers", "broken"),
    ):
        op.drop_column(table, column)
