"""`python -m tracelift_jax` is `tracelift`."""

from tracelift_jax.cli import main

if __name__ == "__main__":
    main()
