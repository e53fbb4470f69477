"""AOS: its routes and its execution record."""
