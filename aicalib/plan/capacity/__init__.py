"""From traffic and a service level to replicas, GPUs, cost and power."""
