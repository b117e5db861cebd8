"""`a3b code --acp`: sessions for editors, by the Agent Client Protocol. Enter at `run_acp` in server.py."""
