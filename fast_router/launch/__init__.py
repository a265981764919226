"""Starting another program with fast_router in it."""
