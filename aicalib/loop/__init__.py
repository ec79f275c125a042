"""What to measure next, and the loop around it."""
