"""The trust folder: what may go in, how, and what it proves; the real authorities, where they are at hand."""

from __future__ import annotations

import http.server
import io
import json
import os
import pty
import stat
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AuthorityInformationAccessOID

from harness.forge import Forge
from harness.stage import run_main
from varmenne.cli.common import App
from varmenne.cli.program import run
from varmenne.clock import system_clock
from varmenne.domain.identifiers import Environment
from varmenne.errors import ConfigError, InputError, ServiceUnreachable, VarmenneError, VerificationError
from varmenne.service.fetch import Limits, fetch
from varmenne.service.trust import KNOWN_CAS, load_trust, validate_path
from varmenne.service.trust_check import check_trust
from varmenne.service.trust_sources import read_file
from varmenne.service.trust_store import TrustStore, in_pairs, read_authority
from varmenne.testbench.family import KeyPair, bench_name, build_certificate, der, key_usage, pem

REFERENCE = Path(__file__).parents[2].parent / "shared" / "reference" / "vero-ca"
PLACES = {
    "prod-root": "chain",
    "prod-intermediate": "chain",
    "prod-providers-issuing": "providers",
    "prod-services-issuing": "services",
    "test-root": "chain",
    "test-intermediate": "chain",
}
SETTINGS = """
environment = "{environment}"
state_dir = "state"
[token]
module = "/nonexistent.so"
label = "none"
[vault]
address = "https://127.0.0.1:9"
"""

Command = Callable[..., Any]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Return a settings file of the test environment with an empty state folder."""
    path = tmp_path / "varmenne.toml"
    path.write_text(SETTINGS.format(environment="test"))
    return path


@pytest.fixture
def command(config: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Return a way to run `varmenne trust …` and to get what it reports."""

    def call(*arguments: object, config: Path = config) -> Any:
        capsys.readouterr()
        run("trust", *map(str, arguments), "--json", app=App(config=str(config)))
        return json.loads(capsys.readouterr().out)

    return call


@pytest.fixture
def authorities(forge: Forge, tmp_path: Path) -> Path:
    """Return a folder with the forge's authorities, in one form each."""
    folder = tmp_path / "authorities"
    folder.mkdir()
    (folder / "root.pem").write_bytes(pem(forge.root.certificate))
    (folder / "services.cer").write_bytes(der(forge.services.certificate))
    (folder / "providers.pem").write_bytes(pem(forge.providers.certificate))
    return folder


def fingerprint(pair: KeyPair) -> str:
    """Return a certificate's SHA-256, as people write it."""
    return read_authority(der(pair.certificate)).fingerprint


def files_in(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def reference(name: str) -> Path:
    """Return a certificate of a real authority, or skip: they are public, and not part of this project."""
    path = REFERENCE / f"{name}.pem"
    if not path.exists():
        pytest.skip(f"the real authorities' certificates are not here ({path.name}); they are not part of this project")
    return path


def real(name: str) -> bytes:
    """Return a real authority's certificate in DER."""
    return x509.load_pem_x509_certificate(reference(name).read_bytes()).public_bytes(Encoding.DER)


def test_unknown_ca_needs_its_fingerprint(command: Command, authorities: Path, forge: Forge, tmp_path: Path) -> None:
    """Without a terminal and without --fingerprint nothing is imported; the error tells the fingerprint."""
    with pytest.raises(InputError) as caught:
        command("import", authorities / "services.cer", "--role", "services")
    assert in_pairs(fingerprint(forge.services)) in caught.value.why
    assert files_in(tmp_path / "state") == {}


def test_import_puts_each_in_its_place(command: Command, authorities: Path, forge: Forge, tmp_path: Path) -> None:
    """PEM and DER; private files; who, when and why in the log; again is no change; and the anchors load."""
    for name, role, pair in (
        ("services.cer", "services", forge.services),
        ("providers.pem", "providers", forge.providers),
        ("root.pem", "chain", forge.root),
    ):
        digits = fingerprint(pair).upper()
        shown = ":".join(digits[i : i + 2] for i in range(0, 64, 2))
        result = command("import", authorities / name, "--role", role, "--fingerprint", shown)
        assert [(one["role"], one["ground"]) for one in result["imported"]] == [(role, "fingerprint given")]
    trust = tmp_path / "state" / "trust" / "test"
    again = command("import", authorities / "root.pem", "--fingerprint", fingerprint(forge.root))
    assert (again["imported"], len(again["already_there"])) == ([], 1)
    loaded = load_trust(trust, Environment.TEST, system_clock())
    assert (loaded.services, loaded.providers) == (forge.anchors, (der(forge.providers.certificate),))
    log = [json.loads(line) for line in (trust / "log.jsonl").read_text().splitlines()]
    assert [(line["action"], line["role"], line["environment"]) for line in log] == [
        ("import", "services", "test"),
        ("import", "providers", "test"),
        ("import", "chain", "test"),
    ]
    assert all(line["user"] and line["at"].endswith("Z") and line["file"] for line in log)
    assert {stat.S_IMODE(path.stat().st_mode) for path in trust.rglob("*") if path.is_file()} == {0o600}
    assert {stat.S_IMODE(path.stat().st_mode) for path in trust.rglob("*") if path.is_dir()} == {0o700}
    assert not list(trust.rglob(".*"))


def test_roles_are_never_mixed(command: Command, authorities: Path, forge: Forge, tmp_path: Path) -> None:
    """A CA of one role cannot get another, a root is no anchor, and a role must be named; nothing changes."""
    print_of = fingerprint(forge.services)
    command("import", authorities / "services.cer", "--role", "services", "--fingerprint", print_of)
    before = files_in(tmp_path / "state")
    for name, options in (
        ("services.cer", ["--role", "providers"]),
        ("services.cer", ["--role", "chain"]),
        ("services.cer", []),
        ("root.pem", ["--role", "services"]),
    ):
        given = ["--fingerprint", print_of, "--fingerprint", fingerprint(forge.root)]
        with pytest.raises(InputError):
            command("import", authorities / name, *options, *given)
    assert files_in(tmp_path / "state") == before


def test_all_are_looked_at_before_any_is_written(
    command: Command, authorities: Path, forge: Forge, tmp_path: Path
) -> None:
    """One bad file among good ones, and nothing is imported."""
    (authorities / "bad.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    with pytest.raises(InputError):
        command("import", authorities / "root.pem", authorities / "bad.pem", "--fingerprint", fingerprint(forge.root))
    assert files_in(tmp_path / "state") == {}


@pytest.mark.parametrize(
    "kind", ["leaf", "ended", "nothing", "empty", "zip of nothing", "broken zip", "huge", "missing"]
)
def test_what_is_no_usable_ca_is_refused(command: Command, forge: Forge, tmp_path: Path, kind: str) -> None:
    """Each with a sentence, and nothing is written."""
    path = tmp_path / "file"
    now = system_clock()
    empty = io.BytesIO()
    with zipfile.ZipFile(empty, "w") as archive:
        archive.writestr("README.txt", "hello")
    ended = build_certificate(
        bench_name("FORGE Old CA"), forge.root.key.public_key(), None, own_key=forge.root.key,
        begin=now - timedelta(days=9), end=now - timedelta(days=1),
        extensions=[(x509.BasicConstraints(True, None), True), (key_usage("key_cert_sign"), True)],
    )  # fmt: skip
    contents = {
        "leaf": pem(forge.signer.certificate),
        "ended": pem(ended),
        "nothing": b"hello",
        "empty": b"",
        "zip of nothing": empty.getvalue(),
        "broken zip": b"PK\3\4 nonsense",
        "huge": b"x" * 2_000_000,
    }
    if kind in contents:
        path.write_bytes(contents[kind])
    with pytest.raises(InputError) as caught:
        command("import", path, "--role", "chain")
    assert caught.value.what
    assert files_in(tmp_path / "state") == {}


def test_two_side_by_side_then_the_old_one_goes(
    command: Command, authorities: Path, forge: Forge, tmp_path: Path
) -> None:
    """A roll-over without a gap: the successor is trusted beside the old CA, which is removed when it is not needed."""
    successor = build_certificate(
        bench_name("FORGE Services CA v2"), forge.other_key.public_key(), forge.root,
        begin=system_clock() - timedelta(days=1), end=system_clock() + timedelta(days=3000),
        extensions=[(x509.BasicConstraints(True, None), True), (key_usage("key_cert_sign"), True)],
    )  # fmt: skip
    (authorities / "both.pem").write_bytes(pem(forge.services.certificate) + pem(successor))
    prints = [read_authority(der_of).fingerprint for der_of in (*forge.anchors, successor.public_bytes(Encoding.DER))]
    command(
        "import", authorities / "both.pem", "--role", "services", *[x for p in prints for x in ("--fingerprint", p)]
    )
    assert [one["role"] for one in command("list")] == ["services", "services"]
    trust = tmp_path / "state" / "trust" / "test"
    command(
        "import", authorities / "providers.pem", "--role", "providers", "--fingerprint", fingerprint(forge.providers)
    )
    assert len(load_trust(trust, Environment.TEST, system_clock()).services) == 2
    removed = command("remove", prints[0][:16])
    assert removed["fingerprint_sha256"] == prints[0]
    assert load_trust(trust, Environment.TEST, system_clock()).services == (successor.public_bytes(Encoding.DER),)
    with pytest.raises(InputError):
        command("remove", prints[0])
    assert json.loads((trust / "log.jsonl").read_text().splitlines()[-1])["action"] == "remove"


def test_removing_one_of_a_file_leaves_the_others(forge: Forge, tmp_path: Path) -> None:
    """A file that a person has put there may hold several certificates."""
    (tmp_path / "chain").mkdir()
    file = tmp_path / "chain" / "all.pem"
    file.write_bytes(pem(forge.root.certificate) + pem(forge.services.certificate))
    store = TrustStore(tmp_path, Environment.TEST)
    store.remove(store.find(fingerprint(forge.services)), system_clock(), "somebody")
    assert [item.authority.fingerprint for item in store.stored()] == [fingerprint(forge.root)]


def test_wrong_environment_is_refused(command: Command, authorities: Path, tmp_path: Path) -> None:
    """--environment that is not the settings' own ends the command."""
    with pytest.raises(InputError, match="test environment"):
        command("import", authorities / "root.pem", "--environment", "production")
    assert files_in(tmp_path / "state") == {}


def test_zip_with_several(command: Command, forge: Forge, tmp_path: Path) -> None:
    """A package as the service publishes it: a README, and certificates in a folder."""
    package = tmp_path / "package.zip"
    with zipfile.ZipFile(package, "w") as archive:
        archive.writestr("README.txt", "Read me")
        archive.writestr("ca/root.cer", der(forge.root.certificate))
        archive.writestr("../../../evil.pem", pem(forge.services.certificate))
    assert [authority.fingerprint for authority in read_file(package)] == [
        fingerprint(forge.root),
        fingerprint(forge.services),
    ]
    given = [x for pair in (forge.root, forge.services) for x in ("--fingerprint", fingerprint(pair))]
    assert len(command("import", package, "--role", "chain", *given)["imported"]) == 2
    assert not (tmp_path.parent / "evil.pem").exists()


@pytest.mark.parametrize(("answer", "code"), [("right", 0), ("wrong", 4), ("yes", 4)])
def test_person_confirms_by_typing(config: Path, authorities: Path, forge: Forge, answer: str, code: int) -> None:
    """On a terminal the fingerprint is shown, and its last eight digits have to be typed."""
    typed = {"right": fingerprint(forge.root)[-8:], "wrong": "00000000", "yes": "yes"}[answer]
    ours, theirs = pty.openpty()
    command = [
        sys.executable,
        "-m",
        "varmenne",
        "--config",
        str(config),
        "trust",
        "import",
        str(authorities / "root.pem"),
    ]
    process = subprocess.Popen(command, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    os.write(ours, f"{typed}\n".encode())
    _out, told = process.communicate(timeout=60)
    os.close(ours)
    os.close(theirs)
    assert process.returncode == code, told
    assert "published" not in told.partition("Compare")[0]
    assert in_pairs(fingerprint(forge.root)) in told.replace("\n    ", "")
    log = config.parent / "state" / "trust" / "test" / "log.jsonl"
    assert (log.exists() and "confirmed by typing" in log.read_text()) == (code == 0)


@contextmanager
def http_server(pages: dict[str, bytes], drip_seconds: float = 0) -> Iterator[tuple[str, list[str]]]:
    """Serve pages by plain http; yields the URL and the list of what was asked for."""
    asked: list[str] = []
    stop = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            body = pages.get(self.path)
            self.send_response(200 if body is not None else 404)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            for i in range(len(body or b"") if drip_seconds else 0):
                if stop.wait(drip_seconds):
                    return
                self.wfile.write((body or b"")[i : i + 1])
            if not drip_seconds:
                self.wfile.write(body or b"")

        def log_message(self, *_arguments: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        stop.set()
        server.shutdown()
        server.server_close()
        thread.join(5)


def with_issuers_url(forge: Forge, url: str) -> KeyPair:
    """Issue a CA below the root that says where the root's certificate is."""
    access = x509.AuthorityInformationAccess(
        [x509.AccessDescription(AuthorityInformationAccessOID.CA_ISSUERS, x509.UniformResourceIdentifier(url))]
    )
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(True, None), True),
        (key_usage("key_cert_sign"), True),
        (access, False),
    ]
    certificate = build_certificate(
        bench_name("FORGE Pointing CA"), forge.services.key.public_key(), forge.root,
        begin=system_clock() - timedelta(days=1), end=system_clock() + timedelta(days=900), extensions=extensions,
    )  # fmt: skip
    return KeyPair(certificate, forge.services.key)


def test_the_network_helps_and_the_fingerprint_decides(command: Command, forge: Forge, tmp_path: Path) -> None:
    """What AIA points at is imported into chain with its fingerprint, and not without; it can never be an anchor."""
    with http_server({"/root.cer": der(forge.root.certificate)}) as (url, asked):
        pointing = with_issuers_url(forge, f"{url}/root.cer")
        file = tmp_path / "pointing.pem"
        file.write_bytes(pem(pointing.certificate))
        given = ["--role", "services", "--fingerprint", fingerprint(pointing)]
        with pytest.raises(InputError, match="does not know"):
            command("import", file, "--from-aia", *given)
        assert files_in(tmp_path / "state") == {}
        result = command("import", file, "--from-aia", *given, "--fingerprint", fingerprint(forge.root))
    assert [one["role"] for one in result["imported"]] == ["services", "chain"]
    assert asked == ["/root.cer"] * 2


def test_what_is_not_there_is_told_and_no_error(
    command: Command, forge: Forge, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A dead address does not keep the files from being imported."""
    with http_server({}) as (url, _asked):
        pointing = with_issuers_url(forge, f"{url}/gone.cer")
        file = tmp_path / "pointing.pem"
        file.write_bytes(pem(pointing.certificate))
        result = command("import", file, "--from-aia", "--role", "services", "--fingerprint", fingerprint(pointing))
    assert len(result["imported"]) == 1
    assert capsys.readouterr().out == ""


def test_when_nothing_could_be_fetched(config: Path, forge: Forge, tmp_path: Path) -> None:
    """It fails if every address was asked in vain and no file was named, with one line for each address."""
    with http_server({}) as (url, _asked):
        folder = tmp_path / "state" / "trust" / "test" / "services"
        folder.mkdir(parents=True)
        (folder / "pointing.pem").write_bytes(pem(with_issuers_url(forge, f"{url}/gone.cer").certificate))
        result = run_main("--config", str(config), "trust", "import", "--from-aia")
    assert (result.code, result.out) == (7, "")
    assert [line for line in result.err.splitlines() if "gone.cer" in line] == [
        f"Warning: {url}/gone.cer: it answered HTTP 404"
    ]


@pytest.mark.parametrize("given", ["11:22", "not hexadecimal", "ab" * 20, "ab" * 32])
def test_a_fingerprint_of_nothing_is_refused(command: Command, forge: Forge, tmp_path: Path, given: str) -> None:
    """A part, an SHA-1, and the fingerprint of something else end the command; nothing is imported."""
    file = tmp_path / "root.pem"
    file.write_bytes(pem(forge.root.certificate))
    with pytest.raises(InputError, match="fingerprint"):
        command("import", file, "--fingerprint", given, "--fingerprint", fingerprint(forge.root))
    assert files_in(tmp_path / "state") == {}


def test_list_tells_who_confirmed(command: Command, config: Path, forge: Forge, tmp_path: Path) -> None:
    """Of a CA that is not published, the list names the person and the day, and the fingerprint as people write it."""
    file = tmp_path / "root.pem"
    file.write_bytes(pem(forge.root.certificate))
    command("import", file, "--fingerprint", in_pairs(fingerprint(forge.root)))
    shown = run_main("--config", str(config), "trust", "list").out
    assert in_pairs(fingerprint(forge.root)) in shown
    assert f" on {system_clock():%Y-%m-%d}" in shown
    assert command("list")[0]["ground"].startswith("confirmed by ")
    (tmp_path / "state" / "trust" / "test" / "log.jsonl").write_text("spoilt\n[]\n{}\n")
    assert "confirmed by nobody" in run_main("--config", str(config), "trust", "list").out


@pytest.mark.parametrize(("digits", "words"), [("12345678", "no certificate's"), ("1234567", "at least 8 digits")])
def test_remove_says_what_is_missing(command: Command, forge: Forge, tmp_path: Path, digits: str, words: str) -> None:
    """Too few digits are another mistake than digits that no certificate begins with."""
    file = tmp_path / "root.pem"
    file.write_bytes(pem(forge.root.certificate))
    command("import", file, "--fingerprint", fingerprint(forge.root))
    with pytest.raises(InputError) as caught:
        command("remove", digits)
    assert words in caught.value.why


@pytest.mark.parametrize("kind", ["large", "slow", "missing", "dead", "file", "nonsense"])
def test_fetching_is_bounded(kind: str) -> None:
    """Size and time are limits of the whole, and only http is spoken; what fails may be tried again."""
    limits = Limits(max_bytes=1000, seconds=0.5)
    pages = {"/large": bytes(1001), "/slow": bytes(900)}
    with http_server(pages, drip_seconds=0.05 if kind == "slow" else 0) as (url, _asked):
        urls = {"dead": "http://127.0.0.1:9/", "file": "file:///etc/hostname", "nonsense": "http://[::1/"}
        with pytest.raises(ServiceUnreachable) as caught:
            fetch(urls.get(kind, f"{url}/{kind}"), limits)
    assert caught.value.transient


def test_check_warns_a_year_ahead(forge: Forge, tmp_path: Path) -> None:
    """Who ends within a year is named, with what to do; a folder that others can write to is a failure."""
    for role, pair in (("services", forge.services), ("providers", forge.providers), ("chain", forge.root)):
        (tmp_path / role).mkdir(mode=0o700)
        (tmp_path / role / "ca.pem").write_bytes(pem(pair.certificate))
    store = TrustStore(tmp_path, Environment.TEST)
    end = forge.services.certificate.not_valid_after_utc
    calm = list(check_trust(store, end - timedelta(days=400)))
    assert {check.verdict for check in calm if "until" in check.detail} == {"ok"}
    assert all("nobody has confirmed" in check.detail for check in calm if check.verdict == "warn")
    late = [check for check in check_trust(store, end - timedelta(days=300)) if "ends on" in check.detail]
    assert len(late) == 3
    assert all("trust import" in check.next_step for check in late)
    (tmp_path / "services").chmod(0o777)
    assert "fail" in {check.verdict for check in check_trust(store, end - timedelta(days=400))}
    assert [check.verdict for check in check_trust(store, end + timedelta(days=1))] == ["fail"]


def test_check_of_an_empty_folder_fails(command: Command, config: Path, tmp_path: Path) -> None:
    """The exit code says so, and the next step is named."""
    del command
    assert run("trust", "check", "--json", app=App(config=str(config))) == 15
    assert files_in(tmp_path / "state") == {}


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


@pytest.mark.parametrize("mistake", ["leaf", "both", "root", "garbage"])
def test_what_cannot_be_is_not_loaded(forge: Forge, tmp_path: Path, mistake: str) -> None:
    """A file that somebody has put into the folder by hand is checked too."""
    good = {"services": forge.services, "providers": forge.providers, "chain": forge.root}
    for role, pair in good.items():
        (tmp_path / role).mkdir()
        (tmp_path / role / "ca.pem").write_bytes(pem(pair.certificate))
    wrong = {
        "leaf": pem(forge.signer.certificate),
        "both": pem(forge.providers.certificate),
        "root": pem(forge.root.certificate),
        "garbage": b"-----BEGIN CERTIFICATE-----\n",
    }
    load_trust(tmp_path, Environment.TEST, system_clock())
    (tmp_path / "services" / "wrong.pem").write_bytes(wrong[mistake])
    with pytest.raises(ConfigError):
        load_trust(tmp_path, Environment.TEST, system_clock())
    with pytest.raises(VarmenneError) as caught:
        list(TrustStore(tmp_path, Environment.TEST).stored()) if mistake in {"leaf", "garbage"} else load_trust(
            tmp_path, Environment.TEST, system_clock()
        )
    assert caught.value.what
