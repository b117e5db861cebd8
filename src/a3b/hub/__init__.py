"""Models on a hub: what a repository holds, and downloads that resume."""
