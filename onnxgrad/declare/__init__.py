"""The decorators and tables of rules and of expansions, and which weights are trainable. This
folder imports `graph` and `emit`.
"""
