"""What a run shows of itself: metrics, progress, profiles and the report. Needs no model."""
