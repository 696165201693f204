"""Tidegate's shim for Python functions. Nothing here is an interface for user code."""
