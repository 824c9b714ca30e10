"""What travels between processes and between nodes: message types, codec, sockets, keys."""
