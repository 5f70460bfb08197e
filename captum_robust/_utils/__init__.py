"""The ground that the packages stand on; nothing here is public."""
