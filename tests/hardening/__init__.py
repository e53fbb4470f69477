"""Hostile callers and a misbehaving upstream."""
