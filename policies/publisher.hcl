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

# Checkpoints of the audit log. Each is written once: with "create" alone, nothing that is there can be changed.
path "secret/data/varmenne/audit/+/+" {
  capabilities = ["create", "read"]
}

path "secret/metadata/varmenne/audit/*" {
  capabilities = ["list"]
}

# Checkpoints of the audit log, each written once: without "update" nobody changes one, and nothing takes one away.
path "secret/data/varmenne/audit/+/+" {
  capabilities = ["create", "read"]
}

path "secret/metadata/varmenne/audit/*" {
  capabilities = ["list"]
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
