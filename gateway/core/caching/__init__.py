"""Caching decisions: who asks, under which key, what is stored and for how long (RFC 9111, RFC 9211)."""
