"""One file a kind of origin; all of them are found by fusion.data.ingest.origin."""
