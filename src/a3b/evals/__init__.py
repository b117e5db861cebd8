"""Benchmarks of any OpenAI-compatible endpoint: a client over HTTP, on inspect-ai. Enter at `a3b.evals.roster`."""
