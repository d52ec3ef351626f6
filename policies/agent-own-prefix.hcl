# A variant of agent.hcl for several agents in one mount: each has a prefix of its own, named by its entity's metadata.
#
# An agent whose entity has the metadata varmenne_agent=a1 works under varmenne/a1 (set vault.prefix to that). One without
# the metadata may do nothing: Vault leaves out rules whose template it cannot fill. `varmenne vault setup --for
# agent-own-prefix` makes entity and alias; whoever may change entities can move an agent to another prefix.

path "secret/data/varmenne/{{identity.entity.metadata.varmenne_agent}}/+/+/+/+" {
  capabilities = ["create", "update", "read"]
}

path "secret/metadata/varmenne/{{identity.entity.metadata.varmenne_agent}}/+/+/+/+" {
  capabilities = ["create", "update", "patch", "read"]

  denied_parameters = {
    "cas_required"         = []
    "delete_version_after" = []
    "max_versions"         = []
  }
}

# What consumers say that they serve. Only they write it.
path "secret/metadata/varmenne/{{identity.entity.metadata.varmenne_agent}}/+/+/+/served" {
  capabilities = ["list"]
}

path "secret/data/varmenne/{{identity.entity.metadata.varmenne_agent}}/+/+/+/served/+" {
  capabilities = ["read"]
}

# Checkpoints of the audit log. Each is written once: with "create" alone, nothing that is there can be changed.
path "secret/data/varmenne/{{identity.entity.metadata.varmenne_agent}}/audit/+/+" {
  capabilities = ["create", "read"]
}

path "secret/metadata/varmenne/{{identity.entity.metadata.varmenne_agent}}/audit/*" {
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
