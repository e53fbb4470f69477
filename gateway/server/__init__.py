"""Runs a gateway, or a parent with workers, until a signal ends it."""
