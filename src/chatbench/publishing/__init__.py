"""Publishing of a finished model: its model card, merged weights, and upload to the hub."""
