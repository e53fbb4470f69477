"""The admin address: health, metrics, configuration, purging."""
