"""a3b: Qwen3.6-35B-A3B and its embedded miniature on a CPU.

Enter at `Engine.load`; `a3b.cli` is the command line. Importing this package starts nothing.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("a3b")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"

__all__ = ["A3BError", "Engine", "SamplingParams", "__version__"]


def __getattr__(name: str):
    """Load the public names on first use, so that `import a3b` stays instant."""
    if name == "Engine":
        from a3b.engine.engine import Engine

        return Engine
    if name == "SamplingParams":
        from a3b.interface.sampling_params import SamplingParams

        return SamplingParams
    if name == "A3BError":
        from a3b.errors import A3BError

        return A3BError
    raise AttributeError(f"module 'a3b' has no attribute {name!r}")
