"""Plans: tasks to try, searches, capacity for a traffic, sweeps. What all of them score and run by stands beside."""
