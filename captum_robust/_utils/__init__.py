"""The ground that the rooms stand on; nothing here is public."""
