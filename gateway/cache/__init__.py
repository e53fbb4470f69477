"""Where caching decisions meet I/O: look up, fetch once, store, answer."""
