"""The best deployments for a service level, and why the others lost."""
