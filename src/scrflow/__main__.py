"""``python -m scrflow``."""

from scrflow.cli.app import main

main()
