#!/bin/sh
# What a person does before the agent can do the rest, for compose.yaml: token, settings, Vault, the first enrollment.
# The bench's clock is behind meanwhile, so the certificate has 60 days and a minute left, and then is due for renewal.
set -eu
umask 077
# The address and the root token are those that `bao` itself goes by.
: "${BAO_ADDR:?}" "${BAO_TOKEN:?}"

# Vault forgets all when it is stopped, and the state stays: then there is nothing more to do here.
[ ! -e varmenne.toml ] || exit 0
url=$(cat bench/url)
# What a run that was broken off has left.
rm -rf new.toml token state

varmenne init --config new.toml --no-try --environment test --state-dir state \
    --softhsm token --endpoint "$url" --service-ca bench/tls-ca.pem --trust bench/trust \
    --customer-id 0123456-7 --customer-name 'Esimerkki & Öljy Oy' \
    --vault-address "$BAO_ADDR" --vault-mount varmenne \
    --vault-login approle --vault-role-id later --vault-secret-id file:vault-secret-id

echo "$BAO_TOKEN" >root-token
varmenne vault setup --config new.toml --admin-token file:root-token
bao read -field=role_id auth/approle/role/varmenne-agent/role-id >role-id
bao write -force -field=secret_id auth/approle/role/varmenne-agent/secret-id >vault-secret-id
varmenne init --config new.toml --no-try --vault-role-id "$(cat role-id)"
# The bench is quicker than the authority, and one certificate needs no days to spread its renewal over.
sed -i -e 's/^# first_poll_seconds = .*/first_poll_seconds = 2.0/' -e 's/^# spread_days = .*/spread_days = 0/' new.toml

end=$(date --utc --date '60 days 80 seconds' '+%Y-%m-%d %H:%M:%S UTC')
varmenne testbench clock --state bench --set "$(date --utc --date "$end 2 years ago" +%Y-%m-%dT%H:%M:%SZ)"
# Without the line that says until when: by this computer's clock, that is long past.
varmenne testbench order --state bench --customer-id 0123456-7 | grep -v 'valid until' |
    varmenne enroll --config new.toml --credentials -
varmenne testbench clock --state bench --reset
mv new.toml varmenne.toml
varmenne list
