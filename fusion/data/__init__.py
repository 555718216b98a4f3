"""From sources to batches: catalog, ingest, shards, curation, validation, order, loader."""
