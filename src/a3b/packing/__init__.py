"""Packing: a model in any readable layout, written again as the tiles that kernels read (source, plan, writer)."""
