# Whoever hands one-time credentials over: `varmenne credentials put` wraps them for exactly one reader.
#
# The two limits make Vault itself refuse to wrap for longer than the credentials live, 14 days, or not at all.

path "sys/wrapping/wrap" {
  capabilities     = ["update"]
  min_wrapping_ttl = "1s"
  max_wrapping_ttl = "336h"
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
