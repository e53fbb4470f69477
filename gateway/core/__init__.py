"""Pure decisions: no I/O, no clock, no logging; time is passed in as ``now_s``."""
