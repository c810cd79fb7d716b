"""Parameters, FLOPs, memory and time of a run, before it is started."""

from coca_jax.planning.flops import forward_flops, training_flops
from coca_jax.planning.parameters import parameter_counts, trained_count
from coca_jax.planning.peaks import peak_flops

__all__ = ["forward_flops", "parameter_counts", "peak_flops", "trained_count", "training_flops"]
