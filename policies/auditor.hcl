# An auditor: sees which records there are, their versions and their custom metadata (serial number, end of validity,
# enrollment), for all customers. It reads the checkpoints of the audit log, and no record, and changes nothing.

path "secret/metadata/varmenne/*" {
  capabilities = ["read", "list"]
}

# Checkpoints of the audit log, also of agents that have a prefix of their own.
path "secret/data/varmenne/audit/+/+" {
  capabilities = ["read"]
}

path "secret/data/varmenne/+/audit/+/+" {
  capabilities = ["read"]
}

path "auth/token/lookup-self" {
  capabilities = ["read"]
}

path "auth/token/renew-self" {
  capabilities = ["update"]
}

path "auth/token/revoke-self" {
  capabilities = ["update"]
}
