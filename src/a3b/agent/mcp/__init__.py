"""MCP servers as tools of the agent: their configuration, their processes and connections, and what the model sees.

Nothing that a server says is trusted. The SDK (`mcp`) is loaded when the first server is started."""
