"""What lies in DVC's cache and remotes: bringing the data of an old commit back, and removing what nobody needs."""
