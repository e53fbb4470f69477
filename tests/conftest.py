"""Fixtures that every test may use."""

pytest_plugins = ["tests.support.fixtures", "tests.support.run_length"]
