"""`python -P -m workers COMMAND`: what needs the model or Celery. `cars` starts it."""

from workers.commands import main

if __name__ == "__main__":
    main()
