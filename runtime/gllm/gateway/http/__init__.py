"""HTTP itself: reading bodies, sending answers, disconnects, limits, uvicorn."""
