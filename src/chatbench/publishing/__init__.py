"""What is published of a finished model: its card, its merged form, its copy on the hub."""
