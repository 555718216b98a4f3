"""Prefect flows over the stages of dvc.yaml. They call stages and know nothing of their insides."""
