"""The decorators and tables of rules and of expansions, and which weights are learnt. It imports
`graph` and `emit`.
"""
