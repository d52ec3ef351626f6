"""Evidence in forms that others can check: signed notes, proofs, bundles, and the verifier that an auditor gets."""
