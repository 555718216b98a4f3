"""Using a trained model: questions about pictures."""
