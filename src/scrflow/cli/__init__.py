"""The command line: one module for each group of commands, put together in app."""

from scrflow.cli.app import main

__all__ = ["main"]
