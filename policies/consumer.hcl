# A consumer: software that serves one customer's certificate on one channel. It reads that record and those of
# its generations, and may tell which one it serves. Nothing else.
#
# Replace test, 1234567-8 and ws by the environment, the customer ID and the channel. Customer IDs that are not plain
# (letters, digits, ".", "_", "-") have the form "id-" and 32 hexadecimal digits here; `varmenne show` tells the path.

path "secret/data/varmenne/test/1234567-8/ws/current" {
  capabilities = ["read"]
}

path "secret/metadata/varmenne/test/1234567-8/ws/current" {
  capabilities = ["read"]
}

# The certificate of each generation, also of one that is not the current one yet or any more.
path "secret/data/varmenne/test/1234567-8/ws/generation-*" {
  capabilities = ["read"]
}

path "secret/metadata/varmenne/test/1234567-8/ws/generation-*" {
  capabilities = ["read"]
}

# What it serves (`varmenne pull --acknowledge consumer`). With several consumers, give each a policy with a name of its own
# in the place of the last word: `varmenne vault setup --for consumer --consumer NAME`.
path "secret/data/varmenne/test/1234567-8/ws/served/consumer" {
  capabilities = ["create", "update", "read"]
}

path "secret/metadata/varmenne/test/1234567-8/ws/served/consumer" {
  capabilities = ["read"]
}

# Its own token, as Vault Agent and OpenBao Agent need.
path "auth/token/lookup-self" {
  capabilities = ["read"]
}

path "auth/token/renew-self" {
  capabilities = ["update"]
}

path "auth/token/revoke-self" {
  capabilities = ["update"]
}
