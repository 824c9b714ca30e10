"""SGLang's native endpoints on top of a generation."""
