"""What a subject may do and what it has left: credits, grants and limits."""
