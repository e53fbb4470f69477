"""Caching decisions: identity, keys, what is stored and for how long (RFC 9111, RFC 9211)."""
