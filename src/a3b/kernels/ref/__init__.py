"""NumPy twins of the kernels: slow where that keeps them obvious, otherwise as fast as NumPy allows.

They trust their arguments; `a3b.kernels` checks them when an op is bound.
"""
