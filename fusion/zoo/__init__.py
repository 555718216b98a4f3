"""The model zoo: published checkpoints, their scores and licences as data, and the rules for continuing them."""
