"""Limits that the whole fleet keeps together: each admission is decided in Redis."""
