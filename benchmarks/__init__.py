"""Measurements over loopback, each with a command of its own."""
