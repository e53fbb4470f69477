"""The peers of the gateway, each with the configuration an expert would use."""
