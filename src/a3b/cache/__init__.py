"""Snapshots of sequences by the tokens that led to them, in memory and on disk, and what is reused for a prompt."""
