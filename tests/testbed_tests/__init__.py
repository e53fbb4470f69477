"""Tests of the test kit itself."""
