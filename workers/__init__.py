"""The Celery side: workers that scan, classify, train and recover what was lost."""
