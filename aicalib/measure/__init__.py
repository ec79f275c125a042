"""Runs on a real engine: its start, its own benchmark client, and what comes of both in the store."""
