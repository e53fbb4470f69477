"""What faults and slow peers cost."""
