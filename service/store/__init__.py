"""Sessions in Redis: the scripts, what is stored, and the connections that call."""
