"""What is measured: scenarios in TOML and their reader."""
