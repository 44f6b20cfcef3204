"""What a worker's parent does about its children, and the memory that they share."""
