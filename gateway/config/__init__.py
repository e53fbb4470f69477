"""The configuration: its settings, their types and rules, and where they come from."""
