"""Sweeps: the same training with changes, by several seeds, in tables (`coca compare`)."""
