"""`python -P -m workers COMMAND`: what needs the model or Celery. `cars` starts it."""

import sys

from workers import termination

if sys.argv[1:2] == ["worker"]:
    termination.ends_at_once()

from workers.commands import main  # loading this takes long enough for a signal to come

if __name__ == "__main__":
    main()
