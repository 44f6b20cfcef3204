"""The view `results` for readers with SQL, and the times of results."""

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Filled in by the change that needs it."""
