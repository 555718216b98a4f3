"""What people see of a run: the package for the Hub with its model card, the report, the summary in the terminal."""
