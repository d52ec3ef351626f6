# The agent: reads and publishes certificate records, and looks after its own token. Nothing else.
#
# Written for the mount "secret" and the prefix "varmenne"; change both if yours differ. The mount must have
# cas_required=true: check-and-set is enforced there, since a policy cannot look into a request's options.
# Not granted, on purpose: delete, undelete, destroy, the mount's configuration, listing of other prefixes.

# PREFIX/ENVIRONMENT/CUSTOMER/CHANNEL/RECORD, where a record is "current" or "generation-N". The agent can add versions,
# never take one away.
path "secret/data/varmenne/+/+/+/+" {
  capabilities = ["create", "update", "read"]
}

# Custom metadata may be set; settings that would weaken check-and-set or shorten the history may not.
path "secret/metadata/varmenne/+/+/+/+" {
  capabilities = ["create", "update", "patch", "read"]

  denied_parameters = {
    "cas_required"         = []
    "delete_version_after" = []
    "max_versions"         = []
  }
}

# What consumers say that they serve. Only they write it.
path "secret/metadata/varmenne/+/+/+/served" {
  capabilities = ["list"]
}

path "secret/data/varmenne/+/+/+/served/+" {
  capabilities = ["read"]
}

# Checkpoints of the audit log. Each is written once: with "create" alone, nothing that is there can be changed.
path "secret/data/varmenne/audit/+/+" {
  capabilities = ["create", "read"]
}

path "secret/metadata/varmenne/audit/*" {
  capabilities = ["list"]
}

# Those of agents that have a prefix of their own are not ours.
path "secret/data/varmenne/+/audit/+/+" {
  capabilities = ["deny"]
}

path "secret/metadata/varmenne/+/audit/+/+" {
  capabilities = ["deny"]
}

# Its own token: how long it lives, more time, and its end when the agent stops.
path "auth/token/lookup-self" {
  capabilities = ["read"]
}

path "auth/token/renew-self" {
  capabilities = ["update"]
}

path "auth/token/revoke-self" {
  capabilities = ["update"]
}

# What it may do, so that `varmenne doctor` can tell before one-time credentials are spent.
path "sys/capabilities-self" {
  capabilities = ["update"]
}
