"""Conversations to prompts, by the model's own template. A template is a program of strangers."""
