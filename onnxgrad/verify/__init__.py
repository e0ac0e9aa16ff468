"""Gradients against finite differences, and the report of what lies on the way. It imports `run`
and all before it.
"""
