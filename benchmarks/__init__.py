"""Speed figures of prediction, ingestion and fitting; nothing here asserts a time."""
