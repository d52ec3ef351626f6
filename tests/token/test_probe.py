"""The custody probe: real tokens that keep keys, and ones that only say so."""

from __future__ import annotations

import os
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from varmenne.domain.keys import new_key_id
from varmenne.errors import TokenUnavailable, TokenUnfit
from varmenne.settings import TokenSettings
from varmenne.token import Token

from .conftest import Shim
from .helpers import swtpm


def test_softhsm_keeps_keys(token: Token) -> None:
    """SoftHSM refuses every way out for which a control key shows that it works, and nothing is left in the token."""
    key_id = new_key_id()
    before = token.generate(key_id, "real")
    probe = token.probe()
    outcomes = {result.name: result.outcome for result in probe.results}
    assert probe.fit
    assert {
        "read PRIVATE_EXPONENT": "refused",
        "read PRIME_1": "refused",
        "wrap AES_KEY_WRAP_PAD": "refused",
        "copy with EXTRACTABLE true": "refused",
        "copy with SENSITIVE false": "refused",
        "decrypt RSA_PKCS": "refused",
        "decrypt RSA_PKCS_OAEP": "refused",
        "decrypt RSA_X_509": "refused",
        "unwrap RSA_PKCS": "refused",
        "unwrap RSA_PKCS_OAEP": "refused",
        "set DECRYPT true": "refused",
        "set UNWRAP true": "refused",
        "set EXTRACTABLE true": "refused",
        "set SENSITIVE false": "refused",
    }.items() <= outcomes.items()
    assert "allowed" not in outcomes.values()
    assert next(result.detail for result in probe.results if result.name == "wrap AES_KEY_WRAP") == (
        "CKR_KEY_UNEXTRACTABLE"
    )
    assert token.keys() == ((key_id, "real"),)
    after = token.find(key_id)
    assert after is not None
    assert after.attributes == before.attributes
    assert probe.token == token.identity()


@pytest.fixture
def nss(tmp_path: Path) -> TokenSettings:
    """NSS softokn with a PIN; it wraps keys that it calls non-extractable."""
    certutil = shutil.which("certutil")
    machine = os.uname().machine
    libraries = [Path(f"/usr/lib/{machine}-linux-gnu/{name}") for name in ("libsoftokn3.so", "nss/libsoftokn3.so")]
    module = next((path for path in libraries if path.is_file()), None)
    if certutil is None or module is None:
        pytest.fail("NSS is missing: install the packages libnss3 and libnss3-tools")
    folder = tmp_path / "nss"
    folder.mkdir(mode=0o700)
    pin = tmp_path / "nss-pin"
    pin.touch(mode=0o600)
    pin.write_text("nss-pin-1234\n")
    subprocess.run([certutil, "-N", "-d", f"sql:{folder}", "-f", pin], check=True)
    parameters = (
        f"configdir='sql:{folder}' certPrefix='' keyPrefix='' secmod='' flags= "
        "cryptoTokenDescription='generic' dbTokenDescription='agent'"
    )
    return TokenSettings(module=str(module), label="agent", pin=f"file:{pin}", init_parameters=parameters)


def test_nss_gives_keys_away_and_is_caught(nss: TokenSettings) -> None:
    """NSS has perfect flags, and lets keys out all the same: the probe sees it, and no key is left there."""
    with Token(nss) as client:
        probe = client.probe()
        allowed = {result.name for result in probe.results if result.outcome == "allowed"}
        assert not probe.fit
        assert {"wrap AES_KEY_WRAP_PAD", "wrap AES_CBC_PAD"} <= allowed
        assert client.keys() == ()


def test_nss_is_refused_at_generation_too(nss: TokenSettings) -> None:
    """NSS does not confirm that its keys are born in it; such a key is destroyed again and not used."""
    with Token(nss) as client:
        with pytest.raises(TokenUnfit, match="LOCAL is false") as caught:
            client.generate(new_key_id(), "key")
        assert "destroyed again" in caught.value.why
        assert client.keys() == ()


def test_nss_without_parameters_says_what_is_missing(nss: TokenSettings) -> None:
    """A module that needs parameters names the setting for them; newer NSS does without, and then has no such token."""
    from msgspec.structs import replace

    from varmenne.errors import TokenError

    with Token(replace(nss, init_parameters="")) as client, pytest.raises(TokenError) as caught:
        client.status()
    assert "init_parameters" in caught.value.next_step or "No token answers" in caught.value.what


def test_a_tpm_is_fit_with_recorded_deviations(tmp_path: Path) -> None:
    """A TPM takes no sign-only order and lets flags be set, but no key leaves the chip: fit, and nothing is silent."""
    with swtpm(tmp_path) as settings, Token(settings) as client:
        facts = client.generate(new_key_id(), "key")
        assert any("refused an order" in sentence for sentence in facts.deviations)
        assert any("DECRYPT is true" in sentence for sentence in facts.deviations)
        assert client.signer(facts.key_id).sign(b"data")
        probe = client.probe()
        details = {result.name: (result.outcome, result.detail) for result in probe.results}
        assert probe.fit
        assert details["make an extractable key"][0] == "refused"
        assert details["set EXTRACTABLE true"][0] == "not applicable"
        assert details["set EXTRACTABLE true"][1].startswith("flag only")
        assert client.keys() == ((facts.key_id, "key"),)


def test_a_token_that_refuses_usage_words_is_a_recorded_deviation(shim: Shim, shimmed: Token) -> None:
    """An order without the refused words is made only after the refusal, and says so with the key."""
    shim.order("refuse-order 105")
    facts = shimmed.generate(new_key_id(), "key")
    assert any(
        "limits the key to signing" in sentence and "CKR_GENERAL_ERROR" in sentence for sentence in facts.deviations
    )
    assert facts.attributes["EXTRACTABLE"] is False
    assert facts.attributes["SENSITIVE"] is True


@pytest.mark.parametrize("attribute", ["162", "103", "2"])
def test_what_keeps_a_key_secret_is_never_conceded(shim: Shim, shimmed: Token, attribute: str) -> None:
    """A token that refuses EXTRACTABLE, SENSITIVE or PRIVATE gets no order without it."""
    shim.order(f"refuse-order {attribute}")
    with pytest.raises(TokenUnavailable, match="CKR_GENERAL_ERROR"):
        shimmed.generate(new_key_id(), "key")
    shim.order()
    assert shimmed.keys() == ()


@pytest.mark.parametrize(
    ("lie", "words"),
    [
        ("bool 162 1", "EXTRACTABLE is true"),
        ("bool 103 0", "SENSITIVE is false"),
        ("bool 164 0", "NEVER_EXTRACTABLE is false"),
        ("bool 163 0", "LOCAL is false"),
        ("untold 165", "ALWAYS_SENSITIVE cannot be read"),
        ("short-modulus", "MODULUS_BITS is 1024"),
        ("bool 202 1", "ALWAYS_AUTHENTICATE is true"),
        ("show-private", "PRIVATE_EXPONENT is true: the token shows the private key in clear"),
    ],
)
def test_a_key_that_is_not_as_ordered_is_destroyed(shim: Shim, shimmed: Token, lie: str, words: str) -> None:
    """A key that reads back otherwise is not kept, and the error names what is wrong."""
    shim.order(lie)
    with pytest.raises(TokenUnfit) as caught:
        shimmed.generate(new_key_id(), "key")
    assert words in caught.value.why
    assert "destroyed again" in caught.value.why
    with shim.honest() as honest:
        assert honest.keys() == ()


def test_a_key_that_cannot_be_destroyed_is_not_passed_over(shim: Shim, shimmed: Token) -> None:
    """If even the destruction fails, the error says so, and the key is still there to be seen."""
    shim.order("bool 162 1", "fail C_DestroyObject 5")
    with pytest.raises(TokenUnfit, match="could not be destroyed"):
        shimmed.generate(new_key_id(), "key")
    with shim.honest() as honest:
        assert len(honest.keys()) == 1


def test_a_found_key_that_is_not_as_ordered_stays(shim: Shim, shimmed: Token) -> None:
    """Reading back later demands the same, but destroys nothing."""
    facts = shimmed.generate(new_key_id(), "key")
    shim.order("bool 162 1")
    with pytest.raises(TokenUnfit):
        shimmed.find(facts.key_id)
    with pytest.raises(TokenUnfit):
        shimmed.generate(facts.key_id, "key")
    shim.order()
    assert shimmed.find(facts.key_id) is not None


def test_leftovers_of_a_crash_are_swept_later(shim: Shim) -> None:
    """A probe that dies leaves throw-away keys; one within ten minutes lets them be, a later one removes them."""
    moment = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
    state = shim.state_dir
    with Token(shim.settings, state_dir=state, clock=lambda: moment) as client:
        key_id = new_key_id()
        client.generate(key_id, "real")
        shim.order("crash C_WrapKey")
        with pytest.raises(TokenUnavailable):
            client.probe()
        shim.order()
        assert len(client.keys()) == 2
    with Token(shim.settings, state_dir=state, clock=lambda: moment + timedelta(minutes=9)) as client:
        client.probe()
        assert len(client.keys()) == 2
    with Token(shim.settings, state_dir=state, clock=lambda: moment + timedelta(minutes=11)) as client:
        client.probe()
        assert client.keys() == ((key_id, "real"),)


def test_a_token_that_goes_away_gives_no_verdict(shim: Shim, shimmed: Token) -> None:
    """Being gone is not a refusal: a probe that loses its session is an error, not a good result."""
    shimmed.login()
    shim.order("fail C_WrapKey b3")
    with pytest.raises(TokenUnavailable, match="CKR_SESSION_HANDLE_INVALID"):
        shimmed.probe()


def test_a_refusal_without_a_working_control_proves_nothing(shim: Shim, shimmed: Token) -> None:
    """If wrapping fails for the control too, the outcome is "not applicable"."""
    shimmed.login()
    shim.order("fail C_WrapKey 70")
    results = {result.name: result for result in shimmed.probe().results}
    assert results["wrap AES_KEY_WRAP_PAD"].outcome == "not applicable"
    assert "control: CKR_MECHANISM_INVALID" in results["wrap AES_KEY_WRAP_PAD"].detail
