"""From raw samples to shards and an index."""
