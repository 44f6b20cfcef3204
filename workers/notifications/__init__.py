"""Telling URLs that jobs have ended."""
