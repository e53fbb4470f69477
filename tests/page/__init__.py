"""What the page on the admin address shows; how it looks is tested in tests/browser."""
