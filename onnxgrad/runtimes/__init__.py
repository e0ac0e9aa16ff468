"""Runtimes, which run models: their protocol, their registry, a module for each, and the ports
that feeds are checked against. This folder imports `graph`.
"""
