"""Listings and their verdicts, who corrected an image, and views of what the current run of each source says."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
NAME = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
TIME = sa.DateTime(timezone=True)
NEEDS_REVIEW = "conflict OR (source = 'model' AND decision <> 'model')"

# Both databases keep these apart: how bytes become hex, and how a moment becomes a time in UTC.
HEX = {
    "sqlite": "CASE WHEN images.content_hash IS NOT NULL THEN lower(hex(images.content_hash)) END",
    "postgresql": "encode(images.content_hash, 'hex')",
}
TIME_OF = {"sqlite": "{0}", "postgresql": "{0} AT TIME ZONE 'UTC'"}

# The newest run of each source that came to its own end; a trial does not count, nor a list of single files.
CURRENT = """
    SELECT max(jobs.id) AS id
    FROM jobs
    WHERE jobs.state IN ('completed', 'completed_with_errors') AND NOT jobs.trial
    GROUP BY jobs.source
"""

LISTING_TAGS = """
CREATE VIEW listing_tags AS
SELECT
    jobs.source AS job_source,
    listings.job_id AS job,
    listings.name AS listing,
    listings.complete AS complete,
    listings.label AS label,
    listings.make AS make,
    listings.model AS model,
    listings.body AS body,
    listings.year AS year,
    listings.confidence AS confidence,
    listings.decision AS decision,
    listings.agreement AS agreement,
    listings.photos AS photos,
    listings.used AS used,
    listings.failed AS failed,
    listings.conflict AS conflict,
    listings.photo AS photo,
    listings.source AS source,
    model_versions.name AS model_version,
    {updated_at} AS updated_at
FROM listings
JOIN jobs ON jobs.id = listings.job_id
JOIN model_versions ON model_versions.id = jobs.version_id
WHERE listings.updated_at IS NOT NULL AND jobs.id IN ({current})
"""

# What is not sure is null, as it is in `listings`.
IMAGE_TAGS = """
CREATE VIEW image_tags AS
SELECT
    jobs.source AS job_source,
    images.job_id AS job,
    images.path AS path,
    images.listing AS listing,
    images.status AS status,
    CASE WHEN predictions.decision = 'model' THEN predictions.label END AS label,
    CASE WHEN predictions.decision IN ('model', 'make') THEN predictions.make END AS make,
    CASE WHEN predictions.decision = 'model' THEN predictions.model END AS model,
    CASE WHEN predictions.decision = 'model' THEN predictions.body END AS body,
    CASE WHEN predictions.decision = 'model' THEN predictions.year END AS year,
    predictions.confidence AS confidence,
    predictions.decision AS decision,
    model_versions.name AS model_version,
    {hex} AS content_hash,
    {finished_at} AS finished_at,
    corrections.label AS correction
FROM images
JOIN jobs ON jobs.id = images.job_id
JOIN model_versions ON model_versions.id = jobs.version_id
LEFT JOIN predictions
    ON images.status = 'ok'
    AND predictions.version_id = jobs.version_id
    AND predictions.content_hash = images.content_hash
LEFT JOIN corrections ON corrections.content_hash = images.content_hash
WHERE jobs.id IN ({current})
"""


def upgrade() -> None:
    op.add_column("jobs", sa.Column("listing_depth", sa.SmallInteger(), nullable=True))
    op.add_column("jobs", sa.Column("manifest", sa.Text(), nullable=True))
    op.add_column("corrections", sa.Column("author", sa.Text(), nullable=True))
    op.create_table(
        "listings",
        sa.Column("job_id", ID, nullable=False),
        sa.Column("name", NAME, nullable=False),
        sa.Column("due", sa.Boolean(), server_default=sa.true(), nullable=False),
        sa.Column("complete", sa.Boolean(), server_default=sa.true(), nullable=False),
        sa.Column("label", sa.Text(), nullable=True),
        sa.Column("make", sa.Text(), nullable=True),
        sa.Column("model", sa.Text(), nullable=True),
        sa.Column("body", sa.Text(), nullable=True),
        sa.Column("year", sa.SmallInteger(), nullable=True),
        sa.Column("confidence", sa.Float(precision=53), server_default="0", nullable=False),
        sa.Column("decision", sa.String(length=10), server_default="unknown", nullable=False),
        sa.Column("agreement", sa.Float(precision=53), nullable=True),
        sa.Column("photos", sa.Integer(), server_default="0", nullable=False),
        sa.Column("used", sa.Integer(), server_default="0", nullable=False),
        sa.Column("failed", sa.Integer(), server_default="0", nullable=False),
        sa.Column("conflict", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("photo", sa.Text(), nullable=True),
        sa.Column("source", sa.String(length=10), server_default="model", nullable=False),
        sa.Column("top", JSON, server_default="[]", nullable=False),
        sa.Column("updated_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_listings_job_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "name", name="pk_listings"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_listings_conflict", "listings", ["job_id", "conflict", "confidence"])
    for column in ("label", "make", "decision"):
        op.create_index(f"ix_listings_{column}", "listings", ["job_id", column, "name"])
    op.create_index("ix_listings_updated_at", "listings", ["updated_at"])
    _partial("ix_listings_due", ["job_id"], "due")
    _partial("ix_listings_review", ["job_id", "conflict", "confidence"], NEEDS_REVIEW)
    database = op.get_bind().dialect.name
    updated_at, finished_at = map(TIME_OF[database].format, ("listings.updated_at", "images.finished_at"))
    op.execute(LISTING_TAGS.format(current=CURRENT, updated_at=updated_at))
    op.execute(IMAGE_TAGS.format(current=CURRENT, hex=HEX[database], finished_at=finished_at))


def _partial(name: str, columns: list[str], where: str) -> None:
    op.create_index(name, "listings", columns, postgresql_where=sa.text(where), sqlite_where=sa.text(where))


def downgrade() -> None:
    op.execute("DROP VIEW image_tags")
    op.execute("DROP VIEW listing_tags")
    op.drop_table("listings")
    for table, column in (("corrections", "author"), ("jobs", "manifest"), ("jobs", "listing_depth")):
        op.drop_column(table, column)
