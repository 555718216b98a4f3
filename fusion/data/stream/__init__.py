"""From a manifest and its shards to the samples of each training step."""
