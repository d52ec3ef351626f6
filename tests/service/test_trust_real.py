"""The real authorities, where they are at hand: they go to their places, and their chains validate."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from harness.authorities import SETTINGS, Command, files_in
from varmenne.clock import system_clock
from varmenne.domain.identifiers import Environment
from varmenne.errors import InputError, VerificationError
from varmenne.service.trust import KNOWN_CAS, load_trust, validate_path
from varmenne.service.trust_store import read_authority

REFERENCE = Path(__file__).parents[2].parent / "shared" / "reference" / "vero-ca"
PLACES = {
    "prod-root": "chain",
    "prod-intermediate": "chain",
    "prod-providers-issuing": "providers",
    "prod-services-issuing": "services",
    "test-root": "chain",
    "test-intermediate": "chain",
}


def reference(name: str) -> Path:
    """Return a certificate of a real authority, or skip: they are public, and not part of this project."""
    path = REFERENCE / f"{name}.pem"
    if not path.exists():
        pytest.skip(f"the real authorities' certificates are not here ({path.name}); they are not part of this project")
    return path


def real(name: str) -> bytes:
    """Return a real authority's certificate in DER."""
    return x509.load_pem_x509_certificate(reference(name).read_bytes()).public_bytes(Encoding.DER)


@pytest.mark.parametrize(
    ("environment", "names"),
    [
        ("production", ["prod-root", "prod-intermediate", "prod-providers-issuing", "prod-services-issuing"]),
        ("test", ["test-root", "test-intermediate"]),
    ],
)
def test_real_authorities_go_to_their_places(
    command: Command, config: Path, environment: str, names: list[str], tmp_path: Path
) -> None:
    """The published certificates are known: no role, no fingerprint and no person is needed."""
    package = tmp_path / "package.zip"
    with zipfile.ZipFile(package, "w") as archive:
        archive.writestr("README.txt", "Read me")
        for name in names:
            archive.write(reference(name), f"{name}.pem")
    config.write_text(SETTINGS.format(environment=environment))
    result = command("import", package)
    assert sorted(one["role"] for one in result["imported"]) == sorted(PLACES[name] for name in names)
    assert {one["ground"] for one in result["imported"]} == {"published"}
    other = "test-root" if environment == "production" else "prod-root"
    before = files_in(tmp_path / "state")
    with pytest.raises(InputError, match="belongs to"):
        command("import", reference(other))
    with pytest.raises(InputError, match="belongs in chain"):
        command("import", reference(names[0]), "--role", "services")
    assert files_in(tmp_path / "state") == before
    if environment == "production":
        checks = command("check")
        assert {check["verdict"] for check in checks} == {"ok"}
        assert (
            len(load_trust(tmp_path / "state" / "trust" / "production", Environment.PRODUCTION, system_clock()).chain)
            == 2
        )


@pytest.mark.parametrize(
    ("leaf", "others", "root"),
    [
        ("prod-providers-issuing", ["prod-intermediate"], "prod-root"),
        ("prod-services-issuing", ["prod-intermediate"], "prod-root"),
        ("test-intermediate", [], "test-root"),
    ],
)
def test_real_chains_validate(leaf: str, others: list[str], root: str) -> None:
    """8192-bit keys, and dates before 2050 as GeneralizedTime, in the chains as they are published."""
    path = validate_path(real(leaf), (real(root),), system_clock(), what="It", others=tuple(map(real, others)))
    assert path == (real(leaf), *map(real, others), real(root))
    with pytest.raises(VerificationError):
        validate_path(real(leaf), (real("test-root" if "prod" in root else "prod-root"),), system_clock(), what="It")


def test_known_fingerprints_are_those_of_the_real_authorities() -> None:
    """What is shipped is what is published."""
    assert {read_authority(real(name)).fingerprint: PLACES[name] for name in PLACES} == {
        known: role for known, (_name, _environment, role) in KNOWN_CAS.items()
    }
