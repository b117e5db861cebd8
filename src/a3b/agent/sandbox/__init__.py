"""Where commands of the agent run: what they may read, write, reach and use up."""
