"""Evaluation that settles arguments: `tracelift eval`."""
