"""Values and states: identifiers, credentials, keys, and the one table of steps. No I/O; imports nothing but errors."""
