"""Mutations of genuine answers, for hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st

from harness.fuzzing import WORDS


@st.composite
def mutations(draw: st.DrawFn, bodies: tuple[bytes, ...]) -> bytes:
    """Draw one of the bodies with pieces cut out, doubled, moved, or put in."""
    body = draw(st.sampled_from(bodies))
    for _step in range(draw(st.integers(1, 4))):
        a, b = sorted((draw(st.integers(0, len(body))), draw(st.integers(0, len(body)))))
        c = draw(st.integers(0, len(body)))
        body = draw(
            st.sampled_from(
                [
                    body[:a] + body[b:],
                    body[:c] + body[a:b] + body[c:],
                    body[:a] + draw(st.sampled_from(WORDS)) + body[a:],
                    body[:a] + draw(st.binary(max_size=20)) + body[b:],
                ]
            )
        )
    return body
