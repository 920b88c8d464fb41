"""What differs between two results, and why."""

from scrflow.report.diff.command import print_difference

__all__ = ["print_difference"]
