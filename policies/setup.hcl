# The administrator who runs `varmenne vault setup`, instead of a root token. Give it for the occasion, then take it back.
#
# It reads and writes no record. But it writes the policies named varmenne-*, and the roles that use them, so whoever has
# it can give such a role any right: it is as powerful as these names let it be.

path "sys/mounts" {
  capabilities = ["read"]
}

path "sys/mounts/secret" {
  capabilities = ["create", "update"]
}

path "secret/config" {
  capabilities = ["create", "read", "update"]
}

# The mount of one-time credentials, for those who use it (credentials-kv-writer, credentials-kv-reader).
path "sys/mounts/one-time" {
  capabilities = ["create", "update"]
}

path "one-time/config" {
  capabilities = ["create", "read", "update"]
}

path "sys/policies/acl/varmenne-*" {
  capabilities = ["create", "read", "update"]
}

path "sys/auth" {
  capabilities = ["read"]
}

# Enabling an auth method asks for sudo on top.
path "sys/auth/approle" {
  capabilities = ["create", "update", "sudo"]
}

path "auth/approle/role/varmenne-*" {
  capabilities = ["create", "read", "update"]
}

path "identity/entity/name/varmenne-*" {
  capabilities = ["create", "read", "update"]
}

path "identity/entity-alias" {
  capabilities = ["create", "update"]
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
