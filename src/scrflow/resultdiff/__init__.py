"""What differs between two results, and why."""

from scrflow.resultdiff.command import print_difference

__all__ = ["print_difference"]
