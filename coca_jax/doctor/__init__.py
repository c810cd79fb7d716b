"""Examines the machine and the environment: `coca doctor`."""

from coca_jax.doctor.examination import examine
from coca_jax.doctor.finding import Finding, State

__all__ = ["Finding", "State", "examine"]
