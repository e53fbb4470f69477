"""The configuration: settings, their types and rules, and their sources."""
