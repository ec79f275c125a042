"""Grids of any size, predicted in chunks on one machine or many."""
