"""Recovering work that was lost, or for which no message arrived."""
