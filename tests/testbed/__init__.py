"""Real parts for the tests: scripted AOS, raw client, Redis server, fault proxy, checks."""
