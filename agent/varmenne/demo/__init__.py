"""The demonstration: a token, a Vault-compatible server and the test bench of its own, on this machine alone."""
