"""One file a curation block; all of them are found by fusion.data.curate.base."""
