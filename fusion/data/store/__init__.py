"""What all stations of the data share: folders written whole, tars read by offset, samples, pictures, the ledger."""
