"""Credentials of the gateway's own, for requests that have none."""
