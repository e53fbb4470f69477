"""The admin address: health, metrics, configuration, purge."""
