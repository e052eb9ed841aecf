"""Training reasoning planners with executor-grounded rewards, in JAX."""
