# Whoever opens handed-over credentials with a login of its own, so that the audit log tells who it was.
#
# `varmenne enroll --credentials vault:FILE` does not need this: the wrapping token in the file is right enough, and for
# one opening only. This policy gives no access to anything without such a token.

path "sys/wrapping/lookup" {
  capabilities = ["update"]
}

path "sys/wrapping/unwrap" {
  capabilities = ["update"]
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
