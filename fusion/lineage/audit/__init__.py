"""Everything that a repository keeps at a commit, held against everything that is said about it."""
