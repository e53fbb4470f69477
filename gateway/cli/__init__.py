"""The command line `aos-gateway` and its commands."""
