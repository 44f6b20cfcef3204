"""Classifying jobs: scanning, batches, their end."""
