"""What a sequence leaves behind in memory; later also on disk."""
