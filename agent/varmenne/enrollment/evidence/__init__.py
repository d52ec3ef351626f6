"""The use cases of evidence: they compose journal, token and Vault with the formats of the audit room."""
