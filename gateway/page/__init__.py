"""The page on the admin address: its data and the files that a browser loads."""
