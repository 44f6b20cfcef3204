"""Which suffixes the files have that a job leaves out."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    op.add_column("jobs", sa.Column("skipped_suffixes", JSON, server_default="{}", nullable=False))


def downgrade() -> None:
    op.drop_column("jobs", "skipped_suffixes")
