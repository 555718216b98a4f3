"""Run records and ancestry: which data, code, parameters and parents made an artifact."""
