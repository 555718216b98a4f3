"""The model zoo's columns as data: one YAML file each, read and checked by entries.py."""
