"""From names and flags to fully filled deployments and workloads: looked up, checked and laid into arrays."""
