"""Where settled records are kept: process memory, Redis, and the two as tiers."""
