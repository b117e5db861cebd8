"""Parses what the model writes, while it is being written, into thinking, text and tool calls."""
