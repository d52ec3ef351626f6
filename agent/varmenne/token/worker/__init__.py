"""The worker process: the only place where a PKCS#11 module is loaded and a PIN is seen.

``python -m varmenne.token.worker`` starts it; :mod:`varmenne.token.process` is the other end. Nothing else may import
this package: it imports python-pkcs11, and a module that crashes or hangs must take only this process with it.
"""
