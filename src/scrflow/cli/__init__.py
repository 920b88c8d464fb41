"""The command line."""

from scrflow.cli.app import main

__all__ = ["main"]
