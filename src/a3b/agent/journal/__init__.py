"""What the agent's calls changed in the workspace, kept outside of it, so that it can be put back. Enter at
`journal.Journal`."""
