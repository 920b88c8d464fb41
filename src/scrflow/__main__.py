"""``python -m scrflow``."""

from scrflow.cli import main

main()
