"""Alembic's entry: runs inside the caller's transaction and connection (see jobs/db/migrate.py)."""

from alembic import context

from jobs.db.migrate import VERSION_TABLE
from jobs.db.tables import Base

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=Base.metadata,
    version_table=VERSION_TABLE,
    render_as_batch=connection.dialect.name == "sqlite",
)
with context.begin_transaction():
    context.run_migrations()
