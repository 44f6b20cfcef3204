"""What monitoring counts of a job; indexes that find what changed of a job's listings, and that sort few outcomes of a
range of confidences by time without a look at the table.
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

INDEX, OF_LISTINGS = "ix_outcomes_confidence", "ix_listings_updated_at"
BY_CONFIDENCE = ["decision", "confidence", "job_id", "ordinal"]


def upgrade() -> None:
    op.add_column("jobs", sa.Column("reclaimed", sa.Integer(), server_default="0", nullable=False))
    op.add_column("jobs", sa.Column("engine_seconds", sa.Float(53), server_default="0", nullable=False))
    op.drop_index(INDEX, "outcomes")
    op.create_index(INDEX, "outcomes", [*BY_CONFIDENCE, "finished_at"])
    op.drop_index(OF_LISTINGS, "listings")
    op.create_index(OF_LISTINGS, "listings", ["job_id", "updated_at"])


def downgrade() -> None:
    op.drop_index(OF_LISTINGS, "listings")
    op.create_index(OF_LISTINGS, "listings", ["updated_at"])
    op.drop_index(INDEX, "outcomes")
    op.create_index(INDEX, "outcomes", BY_CONFIDENCE)
    op.drop_column("jobs", "engine_seconds")
    op.drop_column("jobs", "reclaimed")
