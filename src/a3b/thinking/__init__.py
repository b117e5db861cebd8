"""Thinking across turns: what the server remembers, recognises, keeps, and where it ends."""
