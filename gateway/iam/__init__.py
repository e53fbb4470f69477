"""IAM: whose a token is, and tokens of the gateway's own."""
