"""What the gateway knows of AOS: its routes and its execution record."""
