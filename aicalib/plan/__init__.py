"""Plans: tasks of configurations to try."""
