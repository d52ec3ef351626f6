# Whoever puts one-time credentials into KV for an agent: `varmenne credentials put --kv FOLDER`.
#
# It writes each once, under a new name, and can neither read, change nor list what is there.

path "one-time/data/+/+" {
  capabilities = ["create"]
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
