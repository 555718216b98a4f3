"""What a curated data set is held to: the suites, the engine that runs them, the page that shows the result."""
