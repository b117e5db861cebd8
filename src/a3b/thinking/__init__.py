"""Thinking across turns: which of it is remembered, recognised and kept in the prompt, and when it ends."""
