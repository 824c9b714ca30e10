"""How a model is divided between ranks, and how ranks communicate while they compute. Model families do not know it."""
