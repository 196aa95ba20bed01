"""Measuring what decoding methods do: worlds whose truth is known, metrics, studies, experiments and reports."""
