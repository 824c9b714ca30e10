"""Communication between processes and nodes: message types, codec, sockets, keys."""
