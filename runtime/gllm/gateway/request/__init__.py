"""What a client asks: bodies, their bounds and fields, and what they become."""
