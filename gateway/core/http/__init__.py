"""HTTP messages: requests, fields, framing, and what sits around them (RFC 9110, RFC 9112)."""
