"""The processes of a measurement and how they are started, pinned, watched and ended."""
