"""Tries on live keys: what must be refused is, what is not raises the alarm, and nothing is changed."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from varmenne.domain.identifiers import enrollment_of_label
from varmenne.domain.keys import CustodyProbe, KeyId, ProbeResult, TokenIdentity, new_key_id
from varmenne.errors import InputError, KeyNotFound, TokenUnavailable
from varmenne.token import CreatedToken, Token

from .conftest import Shim
from .helpers import foreign_key, swtpm

COMPONENTS = ("PRIVATE_EXPONENT", "PRIME_1", "PRIME_2", "EXPONENT_1", "EXPONENT_2", "COEFFICIENT")
USES = tuple(f"{use} {how}" for how in ("RSA_PKCS", "RSA_PKCS_OAEP") for use in ("decrypt", "unwrap"))


def by_name(results: tuple[ProbeResult, ...]) -> dict[str, tuple[str, str]]:
    """Return outcome and detail of each try."""
    return {result.name: (result.outcome, result.detail) for result in results}


def test_a_live_key_refuses_by_the_right_codes(token: Token) -> None:
    """SoftHSM refuses each component as sensitive and each use as not permitted, and all attributes are as ordered."""
    key_id = new_key_id()
    before = token.generate(key_id, "real")
    results = by_name(token.probe_key(key_id))
    assert {name: results[name] for name in (*(f"read {name}" for name in COMPONENTS), *USES, "change attributes")} == {
        **{f"read {name}": ("refused", "CKR_ATTRIBUTE_SENSITIVE") for name in COMPONENTS},
        **dict.fromkeys(USES, ("refused", "CKR_KEY_FUNCTION_NOT_PERMITTED")),
        "change attributes": ("refused", "they read as ordered"),
    }
    assert "allowed" not in {outcome for outcome, _ in results.values()}
    after = token.find(key_id)
    assert after is not None
    assert (after.attributes, after.public_key) == (before.attributes, before.public_key)
    assert token.signer(key_id).sign(b"data"), "the key goes on signing"


@pytest.mark.parametrize(
    ("control", "names"),
    [
        ((), ["read VALUE", "change attributes"]),
        (("unlisted 1055",), ["read VALUE", "derive ECDH1_DERIVE", "change attributes"]),
    ],
    ids=["ed25519", "ecdsa-p256"],
)
def test_the_log_key_refuses_too(shim: Shim, shimmed: Token, control: tuple[str, ...], names: list[str]) -> None:
    """The audit log's key, of either kind, shows no secret and derives nothing."""
    shim.order(*control)
    key = shimmed.make_log_key(new_key_id(), "varmenne-log-00")
    results = shimmed.probe_key(key.key_id)
    assert [result.name for result in results] == names
    assert {result.outcome for result in results} == {"refused"}


def test_nothing_is_changed_at_a_live_key(shim: Shim, shimmed: Token) -> None:
    """No call that could change, copy, wrap, make or destroy anything is made."""
    key_id = new_key_id()
    shimmed.generate(key_id, "real")
    changing = ("C_SetAttributeValue", "C_CopyObject", "C_WrapKey", "C_CreateObject", "C_DestroyObject")
    before = {name: shim.calls(name) for name in changing}
    signed = shim.calls("C_Sign")
    shimmed.probe_key(key_id)
    assert {name: shim.calls(name) for name in changing} == before
    assert shim.calls("C_Sign") == signed
    shimmed.probe()
    assert shim.calls("C_SetAttributeValue") > 0, "the shim would have noticed"
    assert shim.calls("C_CopyObject") > 0


@pytest.mark.parametrize(
    ("lie", "name", "words"),
    [
        ("show-private", "read PRIVATE_EXPONENT", "256 bytes came out"),
        ("show-secret 124", "read PRIME_1", "32 bytes came out"),
        ("bool 162 1", "change attributes", "EXTRACTABLE is true"),
        ("bool 164 0", "change attributes", "NEVER_EXTRACTABLE is false"),
        ("untold 103", "change attributes", "SENSITIVE cannot be read"),
    ],
)
def test_what_is_not_refused_is_an_alarm(shim: Shim, shimmed: Token, lie: str, name: str, words: str) -> None:
    """A component that is shown, or an attribute that was changed, is "allowed"; what was seen is told, but no key."""
    key_id = new_key_id()
    shimmed.generate(key_id, "real")
    shim.order(lie)
    outcome, detail = by_name(shimmed.probe_key(key_id))[name]
    assert outcome == "allowed"
    assert words in detail
    assert "55" * 8 not in detail


def test_a_key_that_decrypts_although_it_says_that_it_does_not(softhsm: CreatedToken, shim: Shim) -> None:
    """What is really decrypted and unwrapped by a token that denies it is an alarm; where it says so, a deviation."""
    key_id = new_key_id()
    foreign_key(softhsm, key_id, "made for all uses", bits=2048)
    with shim.client() as client:
        told = by_name(client.probe_key(key_id))
        shim.order("bool 105 0", "bool 107 0")
        denied = by_name(client.probe_key(key_id))
    for name in USES:
        assert told[name][0] == "not applicable"
        assert "is true, a deviation of the key" in told[name][1]
        assert denied[name][0] == "allowed"
    assert denied["decrypt RSA_PKCS"][1] == "32 bytes were decrypted"
    assert denied["unwrap RSA_PKCS_OAEP"][1] == "a key was unwrapped"
    assert told["change attributes"][0] == "allowed", "the key is extractable"


def test_a_key_that_derives_although_it_says_that_it_does_not(softhsm: CreatedToken, shim: Shim) -> None:
    """The same of a key of an elliptic curve."""
    key_id = new_key_id()
    foreign_key(softhsm, key_id, "made for agreement", derives=True)
    with shim.client() as client:
        told = by_name(client.probe_key(key_id))["derive ECDH1_DERIVE"]
        shim.order("bool 10c 0")
        denied = by_name(client.probe_key(key_id))["derive ECDH1_DERIVE"]
    assert told == ("not applicable", "a key was derived; DERIVE is true, a deviation of the key")
    assert denied == ("allowed", "a key was derived")


def test_another_refusal_proves_nothing(shim: Shim, shimmed: Token) -> None:
    """Without a control, only the code that the standard has for this counts as a refusal."""
    key_id = new_key_id()
    shimmed.generate(key_id, "real")
    shim.order("fail C_DecryptInit 5", "untold 124")
    results = by_name(shimmed.probe_key(key_id))
    assert results["decrypt RSA_PKCS"] == ("not applicable", "CKR_GENERAL_ERROR")
    assert results["read PRIME_1"] == ("not applicable", "CKR_ATTRIBUTE_TYPE_INVALID")


def test_a_token_that_goes_away_gives_no_verdict_on_a_live_key(shim: Shim, shimmed: Token) -> None:
    """Being gone is not a refusal."""
    key_id = new_key_id()
    shimmed.generate(key_id, "real")
    shim.order("fail C_DecryptInit b3")
    with pytest.raises(TokenUnavailable, match="CKR_SESSION_HANDLE_INVALID"):
        shimmed.probe_key(key_id)


def test_a_key_that_is_not_there_cannot_be_probed(token: Token) -> None:
    """Neither an unknown key nor an empty CKA_ID gives a result that could be taken for a good one."""
    with pytest.raises(KeyNotFound):
        token.probe_key(new_key_id())
    with pytest.raises(InputError):
        token.probe_key(KeyId(b""))


def test_a_tpms_deviations_are_no_alarm(tmp_path: Path) -> None:
    """A TPM's key decrypts and says so: that was recorded at its birth; nothing of it can be read."""
    with swtpm(tmp_path) as settings, Token(settings) as client:
        key_id = new_key_id()
        client.generate(key_id, "key")
        results = by_name(client.probe_key(key_id))
        assert "allowed" not in {outcome for outcome, _ in results.values()}
        assert "DECRYPT is true, a deviation of the key" in results["decrypt RSA_PKCS"][1]
        assert "DECRYPT is true" in results["change attributes"][1]


def test_refused_uses_do_not_show_that_a_key_stays_inside() -> None:
    """A token of which only refused uses are proven is not fit: they say nothing about keys that leave."""
    identity = TokenIdentity("label", "1", "model", "maker", "1.0", "library")
    uses = tuple(ProbeResult(name, "refused", "code") for name in ("decrypt RSA_PKCS", "set UNWRAP true"))
    at = datetime(2026, 11, 24, tzinfo=UTC)
    assert not CustodyProbe(identity, at, uses).fit
    assert CustodyProbe(identity, at, (*uses, ProbeResult("read PRIME_1", "refused", "code"))).fit
    assert not CustodyProbe(identity, at, (*uses, ProbeResult("decrypt RSA_PKCS", "allowed", "32 bytes"))).fit


@pytest.mark.parametrize("label", ["varmenne-log-20261124", "varmenne-log-0123456789abcdef", "varmenne-log"])
def test_the_log_keys_label_is_no_enrollments(label: str) -> None:
    """Who looks for keys of enrollments by their labels passes the log's key over."""
    assert enrollment_of_label(label) is None
