"""Scorers of benchmarks, one file each: how an answer is read, what it scores, which numbers come of it."""
