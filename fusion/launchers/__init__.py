"""Ways to start the ranks of a training stage: on this machine, by hand on many, by SLURM, on Kubernetes."""
