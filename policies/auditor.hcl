# An auditor: sees which records there are, their versions and their custom metadata (serial number, end of validity,
# enrollment), for all customers. It reads no record and changes nothing.

path "secret/metadata/varmenne/*" {
  capabilities = ["read", "list"]
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
