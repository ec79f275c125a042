"""Results for people: documents, text and tables."""
