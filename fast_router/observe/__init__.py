"""What operators see: the status of every process."""
