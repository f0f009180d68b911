"""Example packages, built from public weights and data: one folder each, with its card and its tests."""
