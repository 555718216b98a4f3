"""What curation decided, told from the files that the stages left; no stage is run and nothing is written to data/."""
