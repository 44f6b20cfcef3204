"""What a worker says of itself, and what a job waits for."""

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Filled in by the change that needs it."""
