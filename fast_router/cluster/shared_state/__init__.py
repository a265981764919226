"""What the processes of a fleet tell each other through Redis."""
