"""Tests of the simulated AOS."""
