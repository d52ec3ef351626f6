"""The use cases: enroll, resume, csr, import, doctor. The only room that knows the whole journey."""
