"""scrflow: visual localization by scene coordinate regression as a reproducible workflow."""

__version__ = "0.1.0"
