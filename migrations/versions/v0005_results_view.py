"""The view `results` for readers with SQL, and the files of a job that was given as a list."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
PATH = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")

# Both databases keep these apart: how bytes become hex, and how a moment becomes a time in UTC.
HEX = {
    "sqlite": "CASE WHEN images.content_hash IS NOT NULL THEN lower(hex(images.content_hash)) END",
    "postgresql": "encode(images.content_hash, 'hex')",
}
FINISHED_AT = {"sqlite": "images.finished_at", "postgresql": "images.finished_at AT TIME ZONE 'UTC'"}

RESULTS = """
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
    op.create_table(
        "listed_files",
        sa.Column("job_id", ID, nullable=False),
        sa.Column("listing", sa.Text(), nullable=True),
        sa.Column("path", PATH, nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_listed_files_job_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "path", name="pk_listed_files"),
        sqlite_with_rowid=False,
    )
    database = op.get_bind().dialect.name
    op.execute(RESULTS.format(hex=HEX[database], finished_at=FINISHED_AT[database]))


def downgrade() -> None:
    op.execute("DROP VIEW results")
    op.drop_table("listed_files")
