"""HTTP: wire formats in, events out. Holds no arrays."""
