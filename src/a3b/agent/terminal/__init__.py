"""The terminal of `a3b code`: events of a session above a line to type in. Enter at `run_terminal` in run.py."""
