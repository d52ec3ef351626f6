# An agent that takes one-time credentials out of KV, beside its own policy: `varmenne enroll --credentials vault-kv:…`.
#
# Replace agent, the folder, by the one that its credentials are put into. It reads them, writes its mark in their place
# (so that of two readers one gets them), destroys all versions, and deletes the path. It cannot list or add anything.

path "one-time/data/agent/+" {
  capabilities = ["update", "read"]
}

path "one-time/destroy/agent/+" {
  capabilities = ["update"]
}

path "one-time/metadata/agent/+" {
  capabilities = ["read", "delete"]
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
