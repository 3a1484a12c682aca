"""The embedded stack: real services on one machine, on loopback only, supervised by `supervisor`."""
