"""JSON schemas: their types, whether they are valid, and their patterns as terminals of a grammar."""
