"""What runs a model: the protocol, the registry, one module for each runtime, and the ports that
feeds are checked against. It imports `graph`.
"""
