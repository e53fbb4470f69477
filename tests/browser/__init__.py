"""The page on the admin address in a real browser: `./dev browser`."""
