"""What the model is: labels, card, preprocessing, engines, decisions, training. Knows no jobs, database or Celery."""
