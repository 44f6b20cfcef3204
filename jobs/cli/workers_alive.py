"""Whether anybody would do the work."""

from jobs.obstacles import anyone_classifies, nobody_works

__all__ = ["anyone_classifies", "nobody_works"]
