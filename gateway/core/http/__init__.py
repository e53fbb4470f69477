"""HTTP messages as values: what may come in, what goes out, how it is framed (RFC 9110, RFC 9112)."""
