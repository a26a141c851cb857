"""Recipes: one TOML file each, a value and its source a line."""
