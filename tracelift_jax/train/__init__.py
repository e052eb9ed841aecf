"""Losses, train steps and the loops around them."""
