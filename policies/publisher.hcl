# A publisher: an agent that serves one customer's one channel and nobody else. As agent.hcl otherwise.
#
# Replace test, 1234567-8 and ws by the environment, the customer ID and the channel, as in consumer.hcl.

path "secret/data/varmenne/test/1234567-8/ws/+" {
  capabilities = ["create", "update", "read"]
}

path "secret/metadata/varmenne/test/1234567-8/ws/+" {
  capabilities = ["create", "update", "patch", "read"]

  denied_parameters = {
    "cas_required"         = []
    "delete_version_after" = []
    "max_versions"         = []
  }
}

# What consumers say that they serve. Only they write it.
path "secret/metadata/varmenne/test/1234567-8/ws/served" {
  capabilities = ["list"]
}

path "secret/data/varmenne/test/1234567-8/ws/served/+" {
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

path "sys/capabilities-self" {
  capabilities = ["update"]
}
