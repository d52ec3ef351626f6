"""A stand-in for the certificate service: server, CAs, one-time orders, faults. Only ``cli`` and tests import it.

It is a **bench**. Its certificates, its HTTP headers and its log lines say so, it listens on loopback only, and nothing
that it issues is worth anything anywhere else. It is also the only place in this package where private keys are made in
software, and those keys are the bench's own: never a customer's.

::

    files      private folders and files, written whole or not at all
    refusals   the one table of error codes and messages
    family     the bench's authorities, what they issue, and their lists of revoked certificates
    store      durable state in SQLite: orders, issued certificates, requests received, faults
    state      a bench's folder as one object: order(), log(), now(), fault(), …
    envelope   SOAP 1.1: strangers' requests in, answers and SOAP faults out
    signing    the signature on every answer, in both forms
    proof      the signature on a renewal request, verified strictly and by hand
    service    the three operations
    faults     the one table of faults that tests can switch on
    server     HTTPS around the service: ``BenchServer``

In a process of its own: ``varmenne testbench serve``. In a test or a demo::

    state = BenchState.create(directory)
    with BenchServer(state, delay_seconds=0.2) as bench:
        order = state.order("0123456-7")
        ...  # bench.url, bench.tls_ca, bench.trust_dir
"""
