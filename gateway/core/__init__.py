"""Pure decisions: no I/O, no clock, no logging; the time comes in as ``now_s``."""
