"""Rewards computed again from what a run recorded of them."""
