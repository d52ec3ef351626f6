"""Authorities from the network: it helps to find them, within limits, and proves nothing."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import AuthorityInformationAccessOID

from harness.authorities import Command, files_in, fingerprint
from harness.forge import Forge
from harness.stage import run_main
from varmenne.clock import system_clock
from varmenne.errors import InputError, ServiceUnreachable
from varmenne.service.fetch import Limits, fetch
from varmenne.testbench.family import KeyPair, bench_name, build_certificate, der, key_usage, pem


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
