"""The FUSION model: configuration, processing, vision tower, projectors, interaction layers, decoder, checkpoints.

Nothing is imported here: a data stage that needs the templates alone does not pay for the model's libraries.
"""
