"""MCPMark. Its benchmark is in `entry`."""
