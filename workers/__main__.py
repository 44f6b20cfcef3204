"""`python -P -m workers COMMAND`: what needs the model or Celery. `cars` starts it."""

import sys

from workers import stopping

if sys.argv[1:2] == ["worker"]:
    stopping.ends_at_once()

from workers.commands import main  # loading this takes long enough for a signal to come

if __name__ == "__main__":
    main()
