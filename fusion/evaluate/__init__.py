"""Evaluation: benchmarks, the systems that answer them, scores with intervals."""
