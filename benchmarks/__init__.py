"""One runnable file a claim; results, with hardware and date, in `results/`. Nothing in the package imports this."""
