"""Tests of aos-gateway."""
