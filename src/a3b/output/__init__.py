"""What the model writes, parsed while it is being written: thinking, text and tool calls."""
