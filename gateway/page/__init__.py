"""The page on the admin address: what it shows, worked out here, and the files a browser loads."""
