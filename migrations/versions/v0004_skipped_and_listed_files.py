"""Files left out of a source, and sources given as a list of files."""

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Filled in by the change that needs it."""
