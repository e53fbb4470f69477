"""Load on one address: targets and generators."""
