"""The view `results` reads outcomes, and the indexes that it needed before go. Comes when the outcomes are filled."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

LISTED = sa.text("listing IS NOT NULL")

# How bytes become hex is the databases' own.
HEX = {
    "sqlite": "CASE WHEN images.content_hash IS NOT NULL THEN lower(hex(images.content_hash)) END",
    "postgresql": "encode(images.content_hash, 'hex')",
}
FINISHED_BEFORE = {"sqlite": "images.finished_at", "postgresql": "images.finished_at AT TIME ZONE 'UTC'"}

RESULTS = """
CREATE VIEW results AS
SELECT
    images.job_id AS job,
    images.path AS path,
    images.listing AS listing,
    images.status AS status,
    classes.label AS label,
    classes.make AS make,
    classes.model AS model,
    classes.body AS body,
    classes.year AS year,
    outcomes.confidence AS confidence,
    outcomes.decision AS decision,
    model_versions.name AS model_version,
    {hex} AS content_hash,
    outcomes.finished_at AS finished_at
FROM images
JOIN jobs ON jobs.id = images.job_id
JOIN model_versions ON model_versions.id = jobs.version_id
LEFT JOIN outcomes ON outcomes.job_id = images.job_id AND outcomes.ordinal = images.ordinal
LEFT JOIN classes ON classes.id = outcomes.class_id
"""
BEFORE = """
CREATE VIEW results AS
SELECT
    images.job_id AS job,
    images.path AS path,
    images.listing AS listing,
    images.status AS status,
    predictions.label AS label,
    predictions.make AS make,
    predictions.model AS model,
    predictions.body AS body,
    predictions.year AS year,
    predictions.confidence AS confidence,
    predictions.decision AS decision,
    model_versions.name AS model_version,
    {hex} AS content_hash,
    {finished_at} AS finished_at
FROM images
JOIN jobs ON jobs.id = images.job_id
JOIN model_versions ON model_versions.id = jobs.version_id
LEFT JOIN predictions
    ON images.status = 'ok'
    AND predictions.version_id = jobs.version_id
    AND predictions.content_hash = images.content_hash
"""


def upgrade() -> None:
    database = op.get_bind().dialect.name
    op.execute("DROP VIEW results")
    op.execute(RESULTS.format(hex=HEX[database]))
    op.drop_index("ix_predictions_label", table_name="predictions")
    op.drop_index("ix_predictions_car", table_name="predictions")
    op.create_index(
        "ix_images_listing", "images", ["listing", "job_id", "ordinal"], postgresql_where=LISTED, sqlite_where=LISTED
    )


def downgrade() -> None:
    database = op.get_bind().dialect.name
    op.drop_index("ix_images_listing", table_name="images")
    op.create_index("ix_predictions_label", "predictions", ["label", "confidence"])
    op.create_index("ix_predictions_car", "predictions", ["make", "model", "year"])
    op.execute("DROP VIEW results")
    op.execute(BEFORE.format(hex=HEX[database], finished_at=FINISHED_BEFORE[database]))
