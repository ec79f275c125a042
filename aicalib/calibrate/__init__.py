"""Fit, validation and scores of profiles against measured runs."""
