"""The report of a job as HTML."""
