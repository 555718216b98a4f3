"""What a training run costs, on paper: `fusion plan`. Closed formulas of the configurations; no weights, no network."""
