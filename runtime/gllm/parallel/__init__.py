"""How a model is divided between ranks, and how ranks talk while they compute. Models know nothing of this."""
