"""Poses against the reference: errors, recall, calibration, pictures, submission files."""
