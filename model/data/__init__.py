"""Labelled data sets: reading, splitting and decoding them."""
