"""Agents of others: how each is told where the server is, and what it sends first."""
