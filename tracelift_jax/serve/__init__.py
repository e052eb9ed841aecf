"""The reward model at work outside of training: on files, and over HTTP."""
