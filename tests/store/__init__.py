"""Tests of gateway/store, on real Redis and Valkey servers."""
