"""What the process gets from its machine: sockets, signals, event loop, TLS, systemd."""
