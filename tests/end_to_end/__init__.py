"""The whole gateway over real sockets: raw callers in front, a scripted AOS behind."""
