"""`fusion publish`: a variant's checkpoints and the cards of its data sets, checked, written, signed, sent, verified.

It stands above `publish`, which makes the package, and `inquiry`, whose signing and verification it uses.
"""
