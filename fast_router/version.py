"""The version of fast_router."""

__all__ = ["__version__"]

__version__ = "0.1.0"
