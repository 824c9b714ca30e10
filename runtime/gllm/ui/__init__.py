"""The web page of a server: its static files, and the middleware that serves them."""
