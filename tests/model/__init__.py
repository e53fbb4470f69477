"""Models that are searched completely within bounds."""
