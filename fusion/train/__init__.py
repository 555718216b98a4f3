"""Training: the three stages of a variant, each continuing the checkpoint of the one before."""
