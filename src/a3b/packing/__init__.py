"""A model in any layout that can be read, written again as the tiles that the kernels read: source, plan, writer."""
