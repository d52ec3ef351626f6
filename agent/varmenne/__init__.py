"""varmenne: certificates of the Finnish Tax Administration's service, with keys that never leave the HSM."""

__version__ = "0.1.0"
