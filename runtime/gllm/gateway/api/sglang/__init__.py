"""SGLang's native endpoints, over the same generation as the others."""
