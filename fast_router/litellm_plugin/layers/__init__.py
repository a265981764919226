"""What stands around a request, an attempt and a pick."""
