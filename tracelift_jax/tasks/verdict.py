"""What a verifier says of an answer."""

OK, WRONG, FAILED = 1, 0, -1
"""A verdict: right, wrong, or no verdict because something broke (which is never learnt from)."""
