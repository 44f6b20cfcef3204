"""Tables that answer queries: outcomes of images, their classes, and totals.

They are empty at first. `jobs.db.migrate` fills them a slice at a time; the next migration follows when they are full.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
WORD = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
FAILED = sa.text("error_code IS NOT NULL")
INDEXES = {
    "time": ["finished_at", "job_id", "ordinal"],
    "class": ["class_id", "finished_at", "job_id", "ordinal"],
    "decision": ["decision", "finished_at", "job_id", "ordinal"],
    "confidence": ["decision", "confidence", "job_id", "ordinal"],
    "job_class": ["job_id", "class_id", "ordinal"],
}
OF_FAILURES = {"failed_time": ["finished_at", "job_id", "ordinal"], "failed": ["job_id", "ordinal"]}


def upgrade() -> None:
    op.create_table(
        "classes",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("version_id", ID, nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("make", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=True),
        sa.Column("year", sa.SmallInteger(), nullable=True),
        sa.ForeignKeyConstraint(["version_id"], ["model_versions.id"], name="fk_classes_version_id"),
        sa.PrimaryKeyConstraint("id", name="pk_classes"),
        sa.UniqueConstraint("version_id", "label", "make", name="uq_classes_version_id"),
    )
    op.create_table(
        "outcomes",
        sa.Column("job_id", sa.Integer(), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.Column("class_id", sa.Integer(), nullable=True),
        sa.Column("confidence", sa.Float(53), nullable=True),
        sa.Column("finished_at", sa.DateTime(), nullable=False),
        sa.Column("decision", WORD, nullable=True),
        sa.Column("error_code", WORD, nullable=True),
        sa.PrimaryKeyConstraint("job_id", "ordinal", name="pk_outcomes"),
        sqlite_with_rowid=False,
    )
    for name, columns in INDEXES.items():
        op.create_index(f"ix_outcomes_{name}", "outcomes", columns)
    for name, columns in OF_FAILURES.items():
        op.create_index(f"ix_outcomes_{name}", "outcomes", columns, postgresql_where=FAILED, sqlite_where=FAILED)
    op.create_table(
        "totals",
        sa.Column("job_id", sa.Integer(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("outcome", WORD, nullable=False),
        sa.Column("class_id", sa.Integer(), nullable=False),
        sa.Column("images", sa.Integer(), nullable=False),
        sa.Column("confidence", sa.Float(53), nullable=False),
        sa.PrimaryKeyConstraint("job_id", "day", "outcome", "class_id", name="pk_totals"),
        sqlite_with_rowid=False,
    )
    if op.get_bind().dialect.name == "postgresql":  # rows that are counted up stay on their page
        op.execute("ALTER TABLE totals SET (fillfactor = 50)")


def downgrade() -> None:
    for table in ("totals", "outcomes", "classes"):
        op.drop_table(table)
