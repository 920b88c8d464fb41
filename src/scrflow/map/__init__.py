"""The map: one file with all that localizing a query needs."""
