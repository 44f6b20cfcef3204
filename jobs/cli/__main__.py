"""`python -P -m jobs.cli` is `cars`."""

from jobs.cli import main

main()
