"""Explanations that walk a network backwards by rules of their own."""
