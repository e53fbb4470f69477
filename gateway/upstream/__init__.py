"""Requests to AOS over pooled connections."""
